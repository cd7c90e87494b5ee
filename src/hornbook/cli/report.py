"""`hornbook report`."""

import os
from pathlib import Path
from typing import Annotated

from rich.markup import escape

from hornbook.cli.console import note, output
from hornbook.cli.terminal import TEXT, print_json, print_table
from hornbook.errors import ConfigError, display_path, reason
from hornbook.language import msg, tr, translated

# The columns that a narrow terminal does without, in that order.
DROPPED = (7, 1, 6, 5, 4, 3)
NUMBERS = ("nats/char", "behind", "parameters", "steps", "time")


def run(
    run: Path,
    /,
    *others: Path,
    out: Path | None = None,
    text: Annotated[str | None, TEXT] = None,
    json: bool = False,
) -> None:
    """Write a run's report card again, or compare runs.

    Each run gets report.html, report.md and report.json in its folder, for its best weights, or for
    its last checkpoint if it has not ended. Several runs also get comparison.html, .md and .json.

    Args:
        run: The run folder.
        others: More run folders, to compare with it.
        out: The folder for the comparison; by default the one that contains all the runs.
        text: Where the text of the run (or of all these runs) is now, if it was moved since.
        json: Print report.json (for several runs comparison.json) instead of a summary.
    """
    paths = [run, *others]
    if out is not None and not others:
        raise ConfigError(
            msg("--out is the folder of a comparison; give two runs or more to compare")
        )
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(msg("a run is named twice; name each run once"))

    from hornbook import report
    from hornbook.cli.display import show_card
    from hornbook.plan.machine import choose_device
    from hornbook.runs.result import revisit

    device = choose_device().value
    cards: list[report.Card] = []
    for path in paths:
        card = report.write(report.examine(revisit(path, device=device, text=text)))
        cards.append(card)
        if not card.result.finished:
            note(
                msg(
                    "{path} has not ended: the figures are those of step {step:,}",
                    path=display_path(path),
                    step=card.result.step,
                )
            )
    console = output()
    if not others:
        if json:
            print_json(cards[0].as_dict())
            return
        show_card(cards[0], console)
        place = escape(display_path(run / "report.html"))
        console.print(tr("The report card is in {path}", path=place), soft_wrap=True)
        return
    folder = out or Path(os.path.commonpath([path.resolve().parent for path in paths]))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(msg("--out {folder}: {why}", folder=folder, why=reason(error))) from None
    rows = report.compare(cards)
    page = report.write_comparison(rows, folder)
    if json:
        print_json([row.as_dict() for row in rows])
        return
    shown = [[escape(translated(cell)) for cell in report.cells(row)] for row in rows]
    columns = [translated(name) for name in report.COLUMNS]
    numbers = [translated(name) for name in report.COLUMNS if name in NUMBERS]
    print_table(console, columns, shown, numbers=numbers, drop=DROPPED, best=0)
    if remark := report.remark(rows):
        note(remark)
    console.print(
        tr("The comparison is in {path}", path=escape(display_path(page))), soft_wrap=True
    )
