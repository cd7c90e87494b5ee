"""`hornbook explain`."""

import json as json_format
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hornbook.cli.terminal import CorpusArgument
from hornbook.errors import ConfigError

if TYPE_CHECKING:
    from hornbook.learn.explain import Averaging, Bigram, Difference, Matrix


def run(
    topic: str | None = None,
    corpus: CorpusArgument = None,
    /,
    *,
    run: Path | None = None,
    json: bool = False,
) -> None:
    """Show an idea at work, in its own figures; the list of topics when none is named.

    Parameters
    ----------
    topic
        averaging: the mean of the past in three forms. bigram: counting beside training.
    corpus
        For bigram: the text to count; python-docs when left out.
    run
        For bigram: a trained bigram run, to put beside the counts of its own text.
    json
        Print one JSON object instead.
    """
    from hornbook.learn import explain

    if topic not in (None, *explain.TOPICS):
        raise ConfigError(f"explain {topic}: expected one of {', '.join(explain.TOPICS)}")
    if topic != "bigram" and (corpus is not None or run is not None):
        raise ConfigError("a corpus and --run are for hornbook explain bigram")
    if corpus is not None and run is not None:
        raise ConfigError("--run brings its own text; leave the corpus or --run out")
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    if topic is None:
        if json:
            sys.stdout.write(json_format.dumps(explain.TOPICS) + "\n")
            return
        for name, summary in explain.TOPICS.items():
            console.print(f"hornbook explain {name:<10} {summary}")
        return
    found = (
        explain.averaging()
        if topic == "averaging"
        else explain.bigram(corpus or "python-docs", run)
    )
    if json:
        sys.stdout.write(json_format.dumps(asdict(found), ensure_ascii=False) + "\n")
    elif isinstance(found, explain.Averaging):
        show_averaging(console, found)
    else:
        show_bigram(console, found)


def show_averaging(console: Console, found: "Averaging") -> None:
    """The trick from the 3 x 3 example to the last bit."""
    heading(console, "A product with a lower-triangular matrix is a running mean")
    console.print(
        "Each row of a sums to 1; each row of c = a @ b is the mean of b's rows so far.\n"
    )
    console.print(
        side_by_side(
            {
                "a": matrix(found.example_a, 4),
                "b": matrix(found.example_b, 0),
                "c = a @ b": matrix(found.example_c, 4),
            }
        )
    )
    heading(console, "The same for 8 positions: three forms of one calculation")
    console.print(
        "loop     for every position, the mean of it and all before it\n"
        "matrix   average_weights(8) @ x: all positions in one product\n"
        "softmax  a softmax over scores of 0, the future at minus infinity, then the\n"
        "         same product. Attention is this form, with scores that each token\n"
        "         chooses for itself.\n"
    )
    same = found.weights == found.softmax_weights
    console.print(
        "The weights of matrix; those of softmax are "
        + ("the same to the last bit:" if same else "the same but for the last bits:")
    )
    console.print(Text(matrix(found.weights, 4)))
    console.print("\nThe notebook's first text, x[0], and the mean of its past:")
    console.print(side_by_side({"x[0]": matrix(found.x, 4), "mean": matrix(found.mean, 4)}))
    heading(console, "How far the forms differ")
    console.print(differences(found.differences))
    prose(
        console,
        "An ulp (unit in the last place) is the step from one float to the next. The loop adds up "
        "and then divides, a product divides and then adds: each rounds elsewhere. Near 0 floats "
        "lie close together, so that rounding the larger numbers that a small mean was made from "
        "comes to many of its own ulps.",
    )
    heading(console, "Why torch.allclose says False")
    failing = [each for each in found.differences if not each.allclose]
    if not failing:
        console.print("On this machine it says True for every pair of forms.")
        return
    first = failing[0]
    console.print(
        "It asks of every entry: |one - other| <= 1e-8 + 1e-5 * |other|.\n"
        f"{' and '.join(first.forms)} in {first.precision} fail at "
        f"{len(first.beyond_tolerance)} of {first.entries} entries:\n"
    )
    for entry in first.beyond_tolerance:
        console.print(
            f"  at {place(entry.place)}: {entry.one:.10f} and {entry.other:.10f}: "
            f"{entry.difference:.2e} apart, {entry.tolerance:.2e} allowed"
        )
    prose(
        console,
        "So near 0 the relative part allows next to nothing, and the absolute part, 1e-8, is less "
        "than what rounding does to float32 numbers around 1. Nothing is wrong: ask with "
        "atol=1e-7, or in float64.",
    )


def show_bigram(console: Console, found: "Bigram") -> None:
    """The counted table's facts, and the trained table's beside them."""
    heading(console, f"Counting pairs in {found.corpus}")
    possible = found.vocab_size**2
    facts = Table.grid(padding=(0, 2))
    facts.add_column()
    facts.add_column(justify="right")
    facts.add_row("pairs of tokens in the training part", f"{found.pairs:,}")
    facts.add_row(f"different ones, of {possible:,} possible", f"{found.distinct_pairs:,}")
    facts.add_row("loss of knowing nothing", f"{found.uniform_loss:.4f} nats")
    facts.add_row("the least that any table can reach", f"{found.best_loss:.4f} nats")
    trained = found.trained
    if trained:
        facts.add_row("the trained table at birth", f"{trained.loss_at_birth:.4f} nats")
        facts.add_row(f"the trained table at step {trained.step:,}", f"{trained.loss:.4f} nats")
        facts.add_row("still to go", f"{trained.left:.4f} nats")
        facts.add_row("of the way gone", f"{trained.way_gone:.2%}")
    console.print(facts)
    console.print("Losses are exact, over every pair of the training part.")
    heading(
        console,
        "Where training has most left to do" if trained else "What follows the commonest tokens",
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("after")
    columns = ["times", "entropy", *(["divergence", "adds"] if trained else [])]
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("most likely next: counted, trained" if trained else "most likely next")
    for row in found.rows:
        cells = [f"{row.count:,}", f"{row.entropy_nats:.3f}"]
        if row.divergence_nats is not None and row.gap_nats is not None:
            cells += [f"{row.divergence_nats:.4f}", f"{row.gap_nats:.5f}"]
        followers = "  ".join(
            f"{each.token!r} {each.counted:.1%}"
            + (f", {each.trained:.1%}" if each.trained is not None else "")
            for each in row.followers[: 2 if trained else 3]
        )
        table.add_row(Text(repr(row.token)), *cells, Text(followers))
    console.print(table)
    if trained:
        prose(
            console,
            "Divergence is the trained row's distance from the counted one in nats; times its "
            "share of all pairs it is what the row adds to the loss. Over all rows that adds up "
            f"to the {trained.left:.4f} nats still to go.",
        )


def heading(console: Console, text: str) -> None:
    """A line above a part."""
    console.print(f"\n[bold]{text}[/]")


def prose(console: Console, text: str) -> None:
    """A paragraph, in lines that a terminal of 80 columns holds."""
    console.print("\n" + textwrap.fill(text, 78))


def matrix(rows: "Matrix", places: int) -> str:
    """A matrix as text, columns aligned; an exact 0 as a dot."""
    cells = [["." if value == 0 else f"{value:.{places}f}" for value in row] for row in rows]
    width = max(len(cell) for row in cells for cell in row)
    return "\n".join("  ".join(cell.rjust(width) for cell in row) for row in cells)


def side_by_side(named: dict[str, str]) -> Table:
    """Matrices next to each other under their names."""
    table = Table.grid(padding=(0, 4))
    table.add_row(*(Text(name, style="italic") for name in named))
    table.add_row(*(Text(text) for text in named.values()))
    return table


def differences(found: list["Difference"]) -> Table:
    """One line a pair of forms and precision."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name in ("forms", "precision"):
        table.add_column(name, no_wrap=True)
    for name in ("differ", "at most", "at b,t,c", "ulps", "at b,t,c"):
        table.add_column(name, justify="right")
    table.add_column("allclose")
    for each in found:
        table.add_row(
            ", ".join(each.forms),
            each.precision,
            f"{each.differing}/{each.entries}",
            f"{each.largest.difference:.2e}" if each.differing else "0",
            place(each.largest.place) if each.differing else "",
            f"{each.most_ulps.ulps}",
            place(each.most_ulps.place) if each.differing else "",
            str(each.allclose),
        )
    return table


def place(index: tuple[int, ...]) -> str:
    """As "1,5,1": text 1, position 5, channel 1."""
    return ",".join(map(str, index))
