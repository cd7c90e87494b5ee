"""`hornbook ladder`."""

import json as json_format
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from hornbook.cli.terminal import CorpusArgument, Whole, note, read

if TYPE_CHECKING:
    from hornbook.learn.ladder import Ladder, Plan, Rung

CURVE_HEIGHT = 14
# One for each of ten rungs, where uniplot's own six would come round again.
COLORS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f"]
COLORS += ["#bcbd22", "#17becf"]


def run(
    corpus: CorpusArgument = None,
    /,
    *,
    minutes: float | None = None,
    steps: Whole | None = None,
    quick: bool = False,
    seeds: Whole = 1,
    rungs: str = "",
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Train every rung between a bigram and a GPT, and say what each idea was worth.

    All rungs get the same text and the same budget: 5,000 steps each, as in the lecture, unless
    told otherwise. The same command goes on where it was stopped, and a rung is trained again only
    when its settings or the text have changed. The small rungs and gpt are 32 wide and read 8
    characters back; gpt has its own optimizer and schedule.

    Parameters
    ----------
    corpus
        A name (see hornbook corpora), a file, a folder of text files, a URL, or - for standard
        input; python-docs, which comes with Python, when left out.
    minutes
        Equal time instead of equal steps: this much training for the whole ladder (and each
        seed); evaluating and measuring come on top.
    steps
        This many steps for each rung; 5,000, as in the lecture, when left out.
    quick
        1,000 steps for each rung.
    seeds
        Train each rung this many times, for error bars.
    rungs
        Only these, as in bigram,head,gpt. The large model of the lecture (lecture: made for a GPU)
        takes part only when named here, or when its share of the minutes allows it 500 steps.
    out
        The ladder's folder; runs/ladder-CORPUS when left out, with the budget added where it is
        not the usual one (-quick, -5min, -200steps).
    json
        End with one JSON object on stdout, and nothing else there.
    """
    # Only now: --help should not wait for torch.
    from hornbook.learn import ladder

    names = [name.strip() for name in rungs.split(",") if name.strip()]
    corpus = corpus or "python-docs"
    text = read(corpus, None)
    if minutes:
        note("timing a step of each rung ...")
    plan = ladder.plan(
        corpus,
        text=text,
        rungs=names,
        steps=steps,
        minutes=minutes,
        quick=quick,
        seeds=seeds,
        out=out,
    )
    if "lecture" not in plan.rungs and not names:
        note("the lecture's large model is left out: for a GPU, or patience; --rungs names it")
    try:
        train(plan)
    except (KeyboardInterrupt, SystemExit):
        note(f"stopped, and saved in {plan.folder}; the same command goes on from there")
        raise
    note("measuring every rung on the whole validation text ...")
    found = ladder.measure(plan)
    if json:
        sys.stdout.write(json_format.dumps(found.as_dict(), ensure_ascii=False) + "\n")
    else:
        show(found)


def train(plan: "Plan") -> None:
    """Climb the plan, showing on stderr where it stands: bars on a terminal, lines in a log."""
    from hornbook.learn import ladder

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:>6,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    live = console.is_terminal
    with (
        Progress(*columns, console=console, disable=not live) as bars,
        closing(ladder.climb(plan)) as progress,
    ):
        tasks: dict[Path, TaskID] = {}
        for each in progress:
            steps = each.steps
            name = each.climb.folder.path.name
            metrics = each.metrics
            if each.climb.folder.path not in tasks:
                tasks[each.climb.folder.path] = bars.add_task(name, total=steps, loss="")
            task = tasks[each.climb.folder.path]
            if metrics is None:
                bars.update(task, completed=steps, loss="was finished")
            elif metrics.val_loss is not None:
                bars.update(
                    task, completed=metrics.step, total=steps, loss=f"val {metrics.val_loss:.3f}"
                )
            else:
                bars.update(task, completed=metrics.step, total=steps)
            if not live and (metrics is None or metrics.step == steps):
                how = "was finished" if metrics is None else f"val {metrics.val_loss:.4f}"
                note(f"{name}: {steps:,} steps, {how}")


def show(found: "Ladder") -> None:
    """The table, the samples and the curves."""
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    console.print(f"\n[bold]The ladder on {found.corpus}[/], {found.budget}\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rung", no_wrap=True)
    table.add_column("idea added")  # gives way on a narrow screen
    for name in ("params", "tokens", "time", "loss", "step down"):
        table.add_column(name, justify="right", no_wrap=True)
    for rung in found.rungs:
        minutes, seconds = divmod(round(rung.seconds), 60)
        table.add_row(
            rung.name,
            rung.idea,
            compact(rung.parameters),
            compact(rung.tokens),
            f"{minutes}:{seconds:02d}",
            f"{rung.loss:.3f}" + ("" if rung.spread is None else f" ± {rung.spread:.3f}"),
            worth(rung),
        )
    console.print(table)
    console.print(f"\n{caption(found)}\n")
    console.print("[bold]What they write[/]")
    for rung in found.rungs:
        line = Text(f"{rung.name:<13}{line_of(rung.sample)}")
        line.truncate(console.width, overflow="ellipsis")
        console.print(line)
    if console.is_terminal:
        console.print()
        console.print(Text.from_ansi(curves(found, console)))
    names = ", ".join(str(found.folder / f"ladder.{kind}") for kind in ("png", "svg", "json"))
    console.print(f"\nThe curves and figures: {names}", soft_wrap=True)


def worth(rung: "Rung") -> str:
    """The step down with its noise; a question mark where it lies within."""
    if rung.worth is None or rung.noise is None:
        return ""
    return f"{rung.worth:.3f} ± {rung.noise:.3f}" + (" ?" if rung.within_noise else "  ")


def caption(found: "Ladder") -> str:
    """What the table's figures mean."""
    others = "".join(
        f", {rung.name}'s from {rung.stands_on}"
        for above, rung in pairwise(found.rungs)
        if rung.stands_on not in (above.name, None)
    )
    by_pairs = f"Counting reaches {found.counted['bigram']:.3f} by pairs of characters"
    order = int(found.counted["ngram_order"])
    by_more = f" and {found.counted['ngram']:.3f} by runs of {order}" if order != 2 else ""
    noise = (
        "the validation text (--seeds 3 adds trainings)"
        if found.seeds == 1
        else f"the validation text and {found.seeds} trainings"
    )
    unsure = [rung.name for rung in found.rungs if rung.within_noise]
    lines = [
        "Loss: nats per character, exact, over the whole validation text.",
        f"Step down: from the rung above it{others}.",
        f"±: two standard errors, over {noise}.",
        f"{by_pairs}{by_more}.",
    ]
    if unsure:
        lines.append(f"? Within noise, so not to be relied on: {', '.join(unsure)}.")
    return "\n".join(lines)


def curves(found: "Ladder", console: Console) -> str:
    """The validation curves in braille."""
    import uniplot

    by_time = found.budget.startswith("equal time")
    xs = [rung.curve.seconds if by_time else rung.curve.steps for rung in found.rungs]
    return uniplot.plot_to_string(
        xs=xs,
        ys=[rung.curve.loss for rung in found.rungs],
        lines=True,
        character_set="braille",
        width=min(60, console.width - 20),
        height=CURVE_HEIGHT,
        title="validation loss by " + ("seconds of training" if by_time else "step"),
        legend_labels=[rung.name for rung in found.rungs],
        color=COLORS[: len(xs)] if console.color_system else False,
    )


def compact(count: int) -> str:
    """42,369 as it is; 256,000 as 256k; 1,280,000 as 1.28M."""
    if count < 100_000:
        return f"{count:,}"
    return f"{count / 1e3:.0f}k" if count < 1_000_000 else f"{count / 1e6:.2f}M"


def line_of(sample: str) -> str:
    """The first line of a sample that has something in it; its longest, if all are short."""
    lines = sample.splitlines() or [""]
    return next((line for line in lines if len(line) >= 30), max(lines, key=len))
