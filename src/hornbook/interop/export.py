"""Writes a run in another program's format, whole or not at all, and checks it there."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hornbook.errors import CheckpointError, ConfigError, reason
from hornbook.interop.request import INSTALL, Request
from hornbook.language import msg
from hornbook.runs.folder import open_run
from hornbook.storage.disk import DISK, UNFINISHED, Disk

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from hornbook.interop.check import Checked


@dataclass(frozen=True)
class Exported:
    """A folder that was written, what engines computed from it, and what the user should know."""

    folder: Path
    files: list[str]
    checked: list[Checked]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The figures as `export --json` prints them."""
        return {**asdict(self), "folder": str(self.folder)}


def export(
    run: str | os.PathLike[str],
    request: Request,
    out: Path | None = None,
    *,
    which: Literal["best", "last"] = "best",
    text: str | None = None,
    disk: Disk = DISK,
) -> Exported:
    """Export a run into `out`, a new folder; by default beside the run's own.

    `text` says where the run's text is now, if it was moved.
    Raises: CheckpointError when the run is missing or damaged, or the disk refuses; ConfigError
    for a model without a form there, a missing package, or an occupied `out`; ExportError when an
    engine computes something else.
    """
    folder = open_run(run)
    request.check(folder.settings())
    path = folder.path.resolve()
    final = out or path.with_name(f"{path.name}-{request.to}")
    if final.exists() or final.is_symlink():
        raise ConfigError(msg("--out {final}: exists already; name a new folder", final=final))

    from hornbook.interop.card import card
    from hornbook.interop.check import check, text_of
    from hornbook.runs.load import load

    trained, engine = load(run, which=which, text=text), request.format.engine
    contents: dict[str, bytes] = request.module.files(trained, request)
    validation = text_of(trained, named=text is not None)
    checked: list[Checked] = []
    notes: list[str] = request.module.notes(trained, request, validation)
    with whole(final, disk) as place:
        for name, data in contents.items():
            put(place / name, data, disk)
        if find_spec(engine):
            checked = [
                check(each, trained, validation)
                for each in request.module.engines(place, trained, request, validation)
            ]
        else:
            notes.append(
                msg(
                    "not checked in an engine: {engine} is not installed ({install})",
                    engine=engine,
                    install=INSTALL,
                )
            )
        readme = card(trained, request, final.name, [*map(str, checked), *notes])
        put(place / "README.md", readme, disk)
    return Exported(final, sorted([*contents, "README.md"]), checked, notes)


@contextmanager
def whole(final: Path, disk: Disk) -> Iterator[Path]:
    """A hidden folder that gets its name when the block ends, and is removed when it fails.

    Raises: CheckpointError when the disk refuses.
    """
    place = final.with_name(f"{UNFINISHED}{final.name}")
    try:
        disk.make_folder(final.parent)
        disk.remove(place)
        disk.make_folder(place)
        yield place
        for folder in (*(each for each in place.iterdir() if each.is_dir()), place):
            disk.sync_folder(folder)
        disk.rename(place, final)
        disk.sync_folder(final.parent)
    except OSError as error:
        raise CheckpointError(
            msg("{final}: cannot write the export: {why}", final=final, why=reason(error))
        ) from None
    finally:
        with suppress(OSError):
            disk.remove(place)


def put(path: Path, data: bytes, disk: Disk) -> None:
    """Write one file durably; its folder is made where it is missing. Raises: OSError."""
    disk.make_folder(path.parent)
    disk.write(path, data)
    disk.sync(path)
