"""`hornbook bench`."""

import importlib
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter

import hornbook
from hornbook.cli.console import log, output
from hornbook.cli.terminal import print_json, table
from hornbook.errors import ConfigError

Subject = Literal["train", "sample", "text", "trace", "startup", "minutes", "busy", "page"]
ROOT = Path(hornbook.__file__).parents[2]


def run(
    subject: Subject | None = None,
    /,
    *,
    short: Annotated[bool, Parameter(negative="")] = False,
    write: Annotated[bool, Parameter(negative="")] = False,
    json: bool = False,
) -> None:
    """Measure hornbook on this machine, and compare it with a peer and the hardware limit.

    Needs a clone of the repository, which contains the peers. Run nothing else on the machine: a
    second program distorts the figures many times over.

    Args:
        subject: What to measure: train, sample, text, trace, startup, page, minutes (takes 30
            minutes) or busy (25 minutes); by default all eight.
        short: Only check that the benchmark works, in seconds: the figures mean little.
        write: Write the tables, with machine, commit and date, to benchmarks/RESULTS.md.
        json: Print one JSON object instead of tables.
    """
    if not (ROOT / "benchmarks" / "table.py").is_file():
        raise ConfigError(
            "hornbook bench needs the repository, which contains the programs to compare with: run "
            "it from a clone installed with pip install -e ."
        )
    sys.path.insert(0, str(ROOT))
    found: dict[str, list[Any]] = {}
    for name in [subject] if subject else get_args(Subject):
        log(f"measuring {name} ...")
        found[name] = importlib.import_module(f"benchmarks.{name}").measure(short=short)
    if json:
        print_json(
            {k: [r._asdict() | {"ratio": r.ratio} for r in rows] for k, rows in found.items()}
        )
    else:
        for name, rows in found.items():
            show(name, rows)
    if write:
        record(found)


def show(name: str, rows: Iterable[Any]) -> None:
    """Print one subject's table."""
    numbers = ("ours", "peer", "ratio", "ceiling")
    measured = table(("", *numbers, ""), numbers=numbers, title=name)
    for row in rows:
        measured.add_row(*cells(row))
    output().print(measured)


def cells(row: Any) -> tuple[str, ...]:
    """A row's six cells as text."""
    return (
        row.what,
        f"{row.ours:,.4g} {row.unit}",
        "" if row.peer is None else f"{row.peer:,.4g} ({row.peer_name})",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.ceiling is None else f"{row.ceiling:,.4g} ({row.ceiling_name})",
        row.note,
    )


def record(found: dict[str, list[Any]]) -> None:
    """Write the tables to benchmarks/RESULTS.md; the other tables there stay."""
    from hornbook.plan.machine import describe, source_commit

    path = ROOT / "benchmarks" / "RESULTS.md"
    sections: dict[str, str] = {}
    if path.exists():
        for part in path.read_text(encoding="utf-8").split("\n## ")[1:]:
            sections[part.partition("\n")[0]] = part.partition("\n")[2].strip()
    facts = describe()
    for name, rows in found.items():
        lines = [
            f"`hornbook bench {name}`, {datetime.now(UTC):%Y-%m-%d}, commit {source_commit()}: "
            f"{facts['processor']}, {facts['cores']} cores ({facts['cpu_capability']}), torch "
            f"{facts['torch']}.",
            "",
            "| what | ours | peer | ratio | ceiling | |",
            "| --- | --- | --- | --- | --- | --- |",
            *("| " + " | ".join(cells(row)) + " |" for row in rows),
        ]
        sections[name] = "\n".join(lines)
    written = "# Results\n\nWritten by `hornbook bench --write`; each table is one run.\n"
    for name, body in sections.items():
        written += f"\n## {name}\n\n{body}\n"
    path.write_text(written, encoding="utf-8")
