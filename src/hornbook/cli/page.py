"""`hornbook page`."""

import re
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from hornbook.cli.console import note, output
from hornbook.cli.terminal import TEXT, print_json
from hornbook.errors import ConfigError, display_path
from hornbook.language import msg, tr

UNITS = {"kb": 1_000, "mb": 1_000_000}


def run(
    run: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    size: str = "6MB",
    weights: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
    network_only: Annotated[bool, Parameter(negative="")] = False,
    checkpoint: Literal["best", "last"] = "best",
    text: Annotated[str | None, TEXT] = None,
    json: bool = False,
) -> None:
    """Write a run's page: one HTML file that runs the model in a browser and shows how it thinks.

    The file needs no server and no network. It can be opened by a double click, mailed, and hosted
    anywhere.

    Args:
        run: The run folder.
        out: The file to write; by default page.html in the run folder.
        size: About how large the page may be, for example 800kB or 8MB. Weights are rounded and
            n-grams pruned until it fits; what that costs in loss is measured and printed.
        weights: The precision of the weights; auto is the most exact that fits.
        network_only: Leave the n-grams out, which hold pieces of the training text, and the piece
            of the validation text that the page begins with.
        checkpoint: Which weights: those with the lowest validation loss, or the last.
        text: Where the run's text is now, if it was moved.
        json: Print one JSON object.
    """
    limit = bytes_of(size)
    from hornbook.page import write
    from hornbook.runs.load import load

    trained = load(run, which=checkpoint, text=text)
    written = write(trained, out, size=limit, weights=weights, network_only=network_only)
    if json:
        kept = written.kept
        facts = {name: getattr(kept, name) for name in kept.__dataclass_fields__}
        print_json({"page": str(written.path), "bytes": written.bytes, **facts})
        return
    for sentence in written.kept.sentences():
        note(sentence)
    if written.bytes > 1.1 * limit:
        note(
            msg(
                "the page is larger than --size {size}: this is the smallest that it can be",
                size=size,
            )
        )
    output().print(
        tr(
            "The page is in {path} ({size:.1f} MB): open it in a browser",
            path=display_path(written.path),
            size=written.bytes / 1e6,
        ),
        soft_wrap=True,
        markup=False,
    )


def bytes_of(size: str) -> int:
    """A size such as 8MB or 800kB in bytes. Raises: ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(kb|mb)?", size.strip().lower())
    count = float(found[1]) * UNITS.get(found[2], 1) if found else 0
    if not 100_000 <= count <= 64_000_000:
        raise ConfigError(
            msg("--size {size}: expected a size from 100kB to 64MB, such as 8MB", size=size)
        )
    return int(count)
