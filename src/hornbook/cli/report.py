"""`hornbook report`."""

import os
from pathlib import Path

from rich.markup import escape

from hornbook.cli.terminal import note, output, print_json, table
from hornbook.errors import ConfigError

NUMBERS = ("nats/char", "behind", "parameters", "steps", "time")


def run(run: Path, /, *others: Path, out: Path | None = None, json: bool = False) -> None:
    """Write a run's report card again, or compare runs.

    Each run gets report.html, report.md and report.json in its folder, for its best weights, or for
    its last checkpoint if it has not ended. Several runs also get comparison.html, .md and .json.

    Args:
        run: The run folder.
        others: More run folders, to compare with it.
        out: The folder for the comparison; by default the one that contains all the runs.
        json: Print report.json (for several runs comparison.json) instead of a summary.
    """
    paths = [run, *others]
    if out is not None and not others:
        raise ConfigError("--out is the folder of a comparison; give two runs or more to compare")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("a run is named twice; name each run once")

    from hornbook import report
    from hornbook.cli.display import show_card
    from hornbook.plan.machine import choose_device
    from hornbook.runs.result import revisit

    device = choose_device().value
    cards: list[report.Card] = []
    for path in paths:
        card = report.write(report.examine(revisit(path, device=device)))
        cards.append(card)
        if not card.result.finished:
            note(f"{path} has not ended: the figures are those of step {card.result.step:,}")
    console = output()
    if not others:
        if json:
            print_json(cards[0].as_dict())
            return
        show_card(cards[0], console)
        console.print(f"The report card is in {escape(str(run / 'report.html'))}", soft_wrap=True)
        return
    folder = out or Path(os.path.commonpath([path.resolve().parent for path in paths]))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}") from None
    rows = report.compare(cards)
    page = report.write_comparison(rows, folder)
    if json:
        print_json([row.as_dict() for row in rows])
        return
    compared = table(report.COLUMNS, numbers=NUMBERS, unbroken=NUMBERS)
    for i, row in enumerate(rows):
        compared.add_row(*map(escape, report.cells(row)), style="" if i else "bold green")
    console.print(compared)
    if remark := report.remark(rows):
        note(remark)
    console.print(f"The comparison is in {escape(str(page))}", soft_wrap=True)
