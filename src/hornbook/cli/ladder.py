"""`hornbook ladder`."""

from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from hornbook.cli.console import is_utf8, note, output, printable
from hornbook.cli.terminal import CorpusArguments, Whole, print_json, print_table
from hornbook.cli.texts import AS_IT_IS, TextOptions, read_texts
from hornbook.config import DataConfig, parse_all
from hornbook.language import msg, tr, translated

if TYPE_CHECKING:
    from hornbook.learn.ladder import Plan
    from hornbook.learn.ladder_figures import Ladder, Rung

CURVE_HEIGHT = 14
# Ten rungs need ten colours; uniplot has six.
COLORS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f"]
COLORS += ["#bcbd22", "#17becf"]


def run(
    *corpus: CorpusArguments,
    minutes: float | None = None,
    steps: Whole | None = None,
    quick: bool = False,
    seeds: Whole = 1,
    rungs: str = "",
    reading: TextOptions = AS_IT_IS,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Train every rung from a bigram to a GPT, and measure what each idea is worth.

    All rungs get the same text and the same budget: 5,000 steps each by default, as in the lecture.
    A command that was stopped continues when it is run again; a rung is only trained again if its
    settings or the text have changed. The small rungs and gpt have 32 channels and a block size of
    8 characters; gpt has its own optimizer and schedule.

    Args:
        corpus: A name (see hornbook corpora), a file or several, a folder of text files, a URL, or
            - for standard input; by default python-docs, which comes with Python.
        minutes: Equal time instead of equal steps: the training time of the whole ladder (for each
            seed); evaluation takes additional time.
        steps: How many steps each rung takes; by default 5,000, as in the lecture.
        quick: 1,000 steps for each rung.
        seeds: How often to train each rung, for error bars.
        rungs: Only these rungs, for example bigram,head,gpt. The lecture's large model (lecture:
            needs a GPU) is only included if it is named here, or if its share of the minutes allows
            500 steps.
        out: The ladder's folder; by default runs/ladder-CORPUS, plus the budget if it is not the
            default (-quick, -5min, -200steps).
        json: Print one JSON object on stdout at the end, and nothing else.
    """
    # Imported here because --help should not wait for torch.
    from hornbook.learn import ladder
    from hornbook.learn.ladder_figures import measure

    names = [name.strip() for name in rungs.split(",") if name.strip()]
    data = DataConfig(**parse_all(reading.given()))
    text = read_texts(corpus or (data.corpus,), data)
    if minutes:
        note(msg("timing a step of each rung ..."))
    plan = ladder.plan(
        "-" if len(corpus) > 1 else "".join(corpus) or data.corpus,
        reading=data,
        text=text,
        rungs=names,
        steps=steps,
        minutes=minutes,
        quick=quick,
        seeds=seeds,
        out=out,
    )
    if "lecture" not in plan.rungs and not names:
        note(
            msg("without the lecture's large model, which needs a GPU or patience; --rungs adds it")
        )
    try:
        train(plan)
    except (KeyboardInterrupt, SystemExit):
        note(
            msg(
                "stopped and saved in {folder}; run the same command again to continue",
                folder=plan.folder,
            )
        )
        raise
    note(msg("measuring every rung on the whole validation text ..."))
    found = measure(plan)
    if json:
        print_json(found.as_dict(), ascii_only=False)
    else:
        show(found)


def train(plan: "Plan") -> None:
    """Train the plan; shows progress on stderr: bars on a terminal, lines in a log."""
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
            folder, steps, metrics = each.climb.folder.path, each.steps, each.metrics
            if folder not in tasks:
                tasks[folder] = bars.add_task(folder.name, total=steps, loss="")
            done, found = (metrics.step, metrics.val_loss) if metrics else (steps, None)
            bars.update(tasks[folder], completed=done, total=steps)
            if metrics is None or found is not None:
                loss = tr("already trained")
                if found is not None:
                    loss = tr("val {loss:.3f}", loss=found)
                bars.update(tasks[folder], loss=loss)
            if not live and done == steps:
                loss = msg("already trained")
                if found is not None:
                    loss = msg("val {loss:.4f}", loss=found)
                note(
                    msg(
                        "{folder}: {steps:,} steps, {loss}",
                        folder=folder.name,
                        steps=steps,
                        loss=loss,
                    )
                )


def show(found: "Ladder") -> None:
    """Print the table, the samples and the curves."""
    console = output()
    title = tr("The ladder on {text}", text=found.corpus)
    console.print(f"\n[bold]{title}[/], {translated(found.budget)}\n")
    numbers = (tr("params"), tr("tokens"), tr("time"), tr("loss"), tr("step down"))
    # The idea is wrapped on a narrow terminal.
    rows = [
        (
            rung.name,
            translated(rung.idea),
            compact(rung.parameters),
            compact(rung.tokens),
            f"{round(rung.seconds) // 60}:{round(rung.seconds) % 60:02d}",
            f"{rung.loss:.3f}" + ("" if rung.spread is None else f" ± {rung.spread:.3f}"),
            worth(rung),
        )
        for rung in found.rungs
    ]
    headings = (tr("rung"), tr("idea added"), *numbers)
    whole = headings[:1]
    print_table(console, headings, rows, numbers=numbers, unbroken=whole, drop=(1, 3, 2, 4, 6))
    console.print(f"\n{caption(found)}\n")
    console.print(f"[bold]{tr('Samples')}[/]")
    for rung in found.rungs:
        line = Text(f"{rung.name:<13}{printable(line_of(rung.sample))}")
        line.truncate(console.width, overflow="ellipsis")
        console.print(line)
    if console.is_terminal:
        console.print()
        console.print(Text.from_ansi(curves(found, console)))
    names = ", ".join(str(found.folder / f"ladder.{kind}") for kind in ("png", "svg", "json"))
    console.print(f"\n{tr('Curves and figures: {files}', files=names)}", soft_wrap=True)


def worth(rung: "Rung") -> str:
    """The step down with its noise; a question mark if it is within the noise."""
    if rung.worth is None or rung.noise is None:
        return ""
    return f"{rung.worth:.3f} ± {rung.noise:.3f}" + (" ?" if rung.within_noise else "  ")


def caption(found: "Ladder") -> str:
    """What the figures of the table mean."""
    others = "".join(
        tr(", {rung}'s from {other}", rung=rung.name, other=rung.stands_on)
        for above, rung in pairwise(found.rungs)
        if rung.stands_on not in (above.name, None)
    )
    order, bigram = int(found.counted["ngram_order"]), found.counted["bigram"]
    counts = tr("Bigram counts reach {loss:.3f}.", loss=bigram)
    if order != 2:
        counts = tr(
            "Bigram counts reach {loss:.3f}, and {order}-gram counts {longer:.3f}.",
            loss=bigram,
            order=order,
            longer=found.counted["ngram"],
        )
    noise = tr("the validation text (with --seeds 3, over seeds too)")
    if found.seeds != 1:
        noise = tr("the validation text and {seeds} seeds", seeds=found.seeds)
    unsure = [rung.name for rung in found.rungs if rung.within_noise]
    lines = [
        tr("Loss: nats per character, exact, over the whole validation text."),
        tr("Step down: from the rung above it{others}.", others=others),
        tr("±: two standard errors, over {noise}.", noise=noise),
        counts,
    ]
    if unsure:
        lines.append(tr("? Within the noise, so not reliable: {rungs}.", rungs=", ".join(unsure)))
    return "\n".join(lines)


def curves(found: "Ladder", console: Console) -> str:
    """The validation losses as curves in braille."""
    import uniplot

    by_time = found.budget.startswith("equal time")
    xs = [rung.curve.seconds if by_time else rung.curve.steps for rung in found.rungs]
    return uniplot.plot_to_string(
        xs=xs,
        ys=[rung.curve.loss for rung in found.rungs],
        lines=True,
        character_set="braille" if is_utf8(console.file) else "ascii",
        width=max(20, min(60, console.width - 20)),
        height=CURVE_HEIGHT,
        title=tr("validation loss by seconds of training")
        if by_time
        else tr("validation loss by step"),
        legend_labels=[rung.name for rung in found.rungs],
        color=COLORS[: len(xs)] if console.color_system else False,
    )


def compact(count: int) -> str:
    """A count in few characters: 42,369, 256k, 1.28M."""
    if count < 100_000:
        return f"{count:,}"
    return f"{count / 1e3:.0f}k" if count < 1_000_000 else f"{count / 1e6:.2f}M"


def line_of(sample: str) -> str:
    """The first line of a sample with 30 characters or more; the longest if there is none."""
    lines = sample.splitlines() or [""]
    return next((line for line in lines if len(line) >= 30), max(lines, key=len))
