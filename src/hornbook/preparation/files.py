"""Which files a store is made of."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hornbook.errors import DataError, display_path
from hornbook.language import msg
from hornbook.storage import objects
from hornbook.text.corpus import files_below
from hornbook.text.sources import file_source, status_of

_GROUP = re.compile(r"([A-Za-z][\w-]{0,30})=(.+)", re.DOTALL)
_PATTERN = re.compile(r"[*?\[]")


class SourceFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file and its state when it was listed; `named` says that it was given by its own name."""

    group: str
    path: str
    size: int
    stamp: str
    named: bool


def list_files(sources: Sequence[str]) -> list[SourceFile]:
    """The files of all sources, each a file, a folder, a pattern or an address of these.

    GROUP= may stand before it.

    Raises: DataError for a source without files, and for a file that is there twice.
    """
    found: list[SourceFile] = []
    for source in sources:
        listed = _files_of(*_split(source))
        if not listed:
            raise DataError(
                msg("{source}: expected files, found none", source=display_path(source))
            )
        found += listed
    seen: set[str] = set()
    for file in found:
        if file.path in seen:
            raise DataError(
                msg("{path} is given twice: name each file once", path=display_path(file.path))
            )
        seen.add(file.path)
    return found


def _split(source: str) -> tuple[str, str]:
    """The group of a source, "text" unless given, and its name."""
    found = _GROUP.fullmatch(source)
    if found is None or (not objects.is_address(found[2]) and status_of(Path(source))):
        return "text", source
    return found[1], found[2]


def _files_of(group: str, name: str) -> list[SourceFile]:
    if objects.is_address(name):
        found = objects.listed(name)
        named = [each.url for each in found] == [name]
        return [SourceFile(group, each.url, each.size, each.stamp, named) for each in found]
    if name == "-":
        raise DataError(
            msg(
                "standard input cannot be read in parts by several processes: save it as a file "
                "first"
            )
        )
    path = Path(name).expanduser()
    status = status_of(path)
    if status is not None and path.is_dir():
        inside = [path / each for each in sorted(files_below(path))]
        return [_local(group, each, named=False) for each in inside if each.is_file()]
    if status is None and _PATTERN.search(name):
        matching = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        return [_local(group, each, named=False) for each in matching if each.is_file()]
    return [_local(group, path, named=True)]


def _local(group: str, path: Path, *, named: bool) -> SourceFile:
    source = file_source(path.resolve())
    size, *_, changed, _ = source.signature
    return SourceFile(group, str(source.path), size, str(changed), named)
