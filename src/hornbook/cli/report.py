"""`hornbook report`."""

import json as json_format
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hornbook.cli.terminal import note
from hornbook.errors import ConfigError


def run(
    run: Path,
    /,
    *others: Path,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Make a run's report card again, or compare runs.

    For each run: report.html, report.md and report.json in its folder, of its best weights, or of
    its last where it has not ended. For several also comparison.html, .md and .json.

    Parameters
    ----------
    run
        The run folder.
    others
        More run folders, to compare it with.
    out
        The folder for the comparison; the one that holds all the runs when left out.
    json
        Print report.json (for several runs comparison.json) instead of the short form.
    """
    paths = [run, *others]
    if out is not None and not others:
        raise ConfigError("--out is where a comparison goes; name two runs or more to compare them")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("a run is named twice; name each once")

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
            note(f"{path} has not ended: these are the figures of step {card.result.step:,}")
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    if not others:
        if json:
            sys.stdout.write(json_format.dumps(cards[0].as_dict()) + "\n")
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
        sys.stdout.write(json_format.dumps([row.as_dict() for row in rows]) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in report.COLUMNS:
        number = column in NUMBERS
        table.add_column(column, no_wrap=number, justify="right" if number else "left")
    for i, row in enumerate(rows):
        table.add_row(*map(escape, report.cells(row)), style="" if i else "bold green")
    console.print(table)
    if told := report.remark(rows):
        note(told)
    console.print(f"The comparison is in {escape(str(page))}", soft_wrap=True)


NUMBERS = ("nats/char", "behind", "parameters", "steps", "time")
