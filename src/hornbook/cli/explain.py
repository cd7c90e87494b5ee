"""`hornbook explain`."""

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hornbook.cli.console import output
from hornbook.cli.terminal import CorpusArgument, print_json, table
from hornbook.cli.texts import AS_IT_IS, TextOptions, read_texts
from hornbook.config import DataConfig, parse_all
from hornbook.errors import ConfigError
from hornbook.language import msg

if TYPE_CHECKING:
    from hornbook.learn.explain import Averaging, Bigram, Difference, Matrix


def run(
    topic: str | None = None,
    corpus: CorpusArgument = None,
    /,
    *,
    run: Path | None = None,
    reading: TextOptions = AS_IT_IS,
    json: bool = False,
) -> None:
    """Show how an idea works, in figures; without a topic, list the topics.

    Args:
        topic: averaging: the mean of the past, computed in three ways. bigram: counting compared
            with training.
        corpus: For bigram: the text to count; by default python-docs.
        run: For bigram: a trained bigram run, to compare with the counts of its own text.
        json: Print one JSON object.
    """
    from hornbook.learn import explain

    if topic not in (None, *explain.TOPICS):
        raise ConfigError(
            msg(
                "explain {topic}: expected one of {topics}",
                topic=topic,
                topics=", ".join(explain.TOPICS),
            )
        )
    if topic != "bigram" and (corpus is not None or run is not None or reading.given()):
        raise ConfigError(
            msg("a corpus, its options and --run only apply to hornbook explain bigram")
        )
    if run is not None and (corpus is not None or reading.given()):
        raise ConfigError(
            msg(
                "--run uses the text of its run, read as the run does; give either a corpus or "
                "--run"
            )
        )
    console = output()
    if topic is None:
        if json:
            print_json(explain.TOPICS)
            return
        for name, summary in explain.TOPICS.items():
            console.print(f"hornbook explain {name:<10} {summary}")
        return
    if topic == "averaging":
        found = explain.averaging()
    elif run is not None:
        found = explain.bigram(run=run)
    else:
        data = parse_all({"corpus": corpus or "python-docs"} | reading.given())
        found = explain.bigram(read_texts((data["corpus"],), DataConfig(**data)))
    if json:
        print_json(asdict(found), ascii_only=False)
    elif isinstance(found, explain.Averaging):
        show_averaging(console, found)
    else:
        show_bigram(console, found)


def show_averaging(console: Console, found: "Averaging") -> None:
    """Print the 3 x 3 example, the three forms, and where they differ."""
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
    heading(console, "The same for 8 positions, in three forms")
    console.print(
        "loop     for every position, the mean of it and all positions before it\n"
        "matrix   average_weights(8) @ x: all positions in one product\n"
        "softmax  a softmax over scores of 0, with the future at minus infinity, then\n"
        "         the same product. Attention has this form, with scores that depend\n"
        "         on the tokens.\n"
    )
    same = found.weights == found.softmax_weights
    console.print(
        "The weights of matrix; those of softmax are "
        + ("identical to the last bit:" if same else "the same except for the last bits:")
    )
    console.print(Text(matrix(found.weights, 4)))
    console.print("\nThe notebook's first text, x[0], and the mean of its past:")
    console.print(side_by_side({"x[0]": matrix(found.x, 4), "mean": matrix(found.mean, 4)}))
    heading(console, "How far the forms differ")
    console.print(differences(found.differences))
    prose(
        console,
        "An ulp (unit in the last place) is the step from one float to the next. The loop adds and "
        "then divides; a product divides and then adds. So they round at different points. Floats "
        "near 0 lie close together: where a small mean comes from larger numbers, their rounding "
        "error amounts to many ulps of the mean.",
    )
    heading(console, "Why torch.allclose returns False")
    failing = [each for each in found.differences if not each.allclose]
    if not failing:
        console.print("On this machine it is True for every pair of forms.")
        return
    first = failing[0]
    console.print(
        "It requires of every entry: |one - other| <= 1e-8 + 1e-5 * |other|.\n"
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
        "This close to 0 the relative tolerance is almost nothing, and the absolute tolerance, "
        "1e-8, is less than the rounding error of float32 numbers around 1. Nothing is wrong: use "
        "atol=1e-7, or float64.",
    )


def show_bigram(console: Console, found: "Bigram") -> None:
    """Print the table of counts, compared with the trained table if there is one."""
    heading(console, f"Counting pairs in {found.corpus}")
    possible = found.vocab_size**2
    facts = Table.grid(padding=(0, 2))
    facts.add_column()
    facts.add_column(justify="right")
    facts.add_row("pairs of tokens in the training part", f"{found.pairs:,}")
    facts.add_row(f"distinct pairs, of {possible:,} possible", f"{found.distinct_pairs:,}")
    facts.add_row("loss of the uniform guess", f"{found.uniform_loss:.4f} nats")
    facts.add_row("lowest loss of any table", f"{found.best_loss:.4f} nats")
    trained = found.trained
    if trained:
        facts.add_row("trained table at initialisation", f"{trained.loss_at_birth:.4f} nats")
        facts.add_row(f"trained table at step {trained.step:,}", f"{trained.loss:.4f} nats")
        facts.add_row("above the lowest", f"{trained.left:.4f} nats")
        facts.add_row("share of the way done", f"{trained.way_gone:.2%}")
    console.print(facts)
    console.print("Losses are exact: the mean over every pair of the training part.")
    heading(
        console,
        "Where the trained table is furthest from the counts"
        if trained
        else "What follows the most frequent tokens",
    )
    numbers = ["times", "entropy", *(["divergence", "adds"] if trained else [])]
    likely = "most likely next: counted, trained" if trained else "most likely next"
    compared = table(("after", *numbers, likely), numbers=numbers)
    for row in found.rows:
        cells = [f"{row.count:,}", f"{row.entropy_nats:.3f}"]
        if row.divergence_nats is not None and row.gap_nats is not None:
            cells += [f"{row.divergence_nats:.4f}", f"{row.gap_nats:.5f}"]
        followers = "  ".join(
            f"{each.token!r} {each.counted:.1%}"
            + (f", {each.trained:.1%}" if each.trained is not None else "")
            for each in row.followers[: 2 if trained else 3]
        )
        compared.add_row(Text(repr(row.token)), *cells, Text(followers))
    console.print(compared)
    if trained:
        prose(
            console,
            "The divergence is the Kullback-Leibler divergence of the trained row from the counted "
            "one, in nats. Multiplied by the row's share of all pairs it is what the row adds to "
            f"the loss. Over all rows that sums to {trained.left:.4f} nats above the lowest loss.",
        )


def heading(console: Console, text: str) -> None:
    """Print a section's heading."""
    console.print(f"\n[bold]{text}[/]")


def prose(console: Console, text: str) -> None:
    """Print a paragraph, wrapped for a terminal of 80 columns."""
    console.print("\n" + textwrap.fill(text, 78))


def matrix(rows: "Matrix", places: int) -> str:
    """A matrix as text with aligned columns; a dot is an exact 0."""
    cells = [["." if value == 0 else f"{value:.{places}f}" for value in row] for row in rows]
    width = max(len(cell) for row in cells for cell in row)
    return "\n".join("  ".join(cell.rjust(width) for cell in row) for row in cells)


def side_by_side(named: dict[str, str]) -> Table:
    """Matrices next to each other under their names."""
    grid = Table.grid(padding=(0, 4))
    grid.add_row(*(Text(name, style="italic") for name in named))
    grid.add_row(*(Text(text) for text in named.values()))
    return grid


def differences(found: list["Difference"]) -> Table:
    """A row for each pair of forms in each precision."""
    names, numbers = ("forms", "precision"), ("differ", "at most", "at b,t,c", "ulps")
    compared = table((*names, *numbers, "at b,t,c", "allclose"), numbers=numbers, unbroken=names)
    for each in found:
        compared.add_row(
            ", ".join(each.forms),
            each.precision,
            f"{each.differing}/{each.entries}",
            f"{each.largest.difference:.2e}" if each.differing else "0",
            place(each.largest.place) if each.differing else "",
            f"{each.most_ulps.ulps}",
            place(each.most_ulps.place) if each.differing else "",
            str(each.allclose),
        )
    return compared


def place(index: tuple[int, ...]) -> str:
    """An index as "1,5,1": text 1, position 5, channel 1."""
    return ",".join(map(str, index))
