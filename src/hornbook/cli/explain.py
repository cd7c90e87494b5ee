"""`hornbook explain`."""

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hornbook.cli.console import output
from hornbook.cli.terminal import CorpusArgument, print_json, table
from hornbook.cli.texts import AS_IT_IS, TextOptions, read_texts
from hornbook.config import DataConfig, parse_all
from hornbook.errors import ConfigError
from hornbook.language import msg, tr, translated

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
            console.print(f"hornbook explain {name:<10} {translated(summary)}")
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
    heading(console, tr("A product with a lower-triangular matrix is a running mean"))
    console.print(
        tr("Each row of a sums to 1; each row of c = a @ b is the mean of b's rows so far.\n")
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
    heading(console, tr("The same for 8 positions, in three forms"))
    console.print(
        tr(
            "loop     for every position, the mean of it and all positions before it\n"
            "matrix   average_weights(8) @ x: all positions in one product\n"
            "softmax  a softmax over scores of 0, with the future at minus infinity, then\n"
            "         the same product. Attention has this form, with scores that depend\n"
            "         on the tokens.\n"
        )
    )
    same = found.weights == found.softmax_weights
    alike = tr("The weights of matrix; those of softmax are the same except for the last bits:")
    if same:
        alike = tr("The weights of matrix; those of softmax are identical to the last bit:")
    console.print(alike)
    console.print(Text(matrix(found.weights, 4)))
    console.print(tr("\nThe notebook's first text, x[0], and the mean of its past:"))
    console.print(side_by_side({"x[0]": matrix(found.x, 4), tr("mean"): matrix(found.mean, 4)}))
    heading(console, tr("How far the forms differ"))
    console.print(differences(found.differences))
    prose(
        console,
        tr(
            "An ulp (unit in the last place) is the step from one float to the next. The loop adds "
            "and then divides; a product divides and then adds. So they round at different points. "
            "Floats near 0 lie close together: where a small mean comes from larger numbers, their "
            "rounding error amounts to many ulps of the mean."
        ),
    )
    heading(console, tr("Why torch.allclose returns False"))
    failing = [each for each in found.differences if not each.allclose]
    if not failing:
        console.print(tr("On this machine it is True for every pair of forms."))
        return
    first = failing[0]
    one, other = first.forms
    console.print(
        tr(
            "It requires of every entry: |one - other| <= 1e-8 + 1e-5 * |other|.\n"
            "{one} and {other} in {precision} fail at {failing} of {entries} entries:\n",
            one=one,
            other=other,
            precision=first.precision,
            failing=len(first.beyond_tolerance),
            entries=first.entries,
        )
    )
    for entry in first.beyond_tolerance:
        console.print(
            tr(
                "  at {place}: {one:.10f} and {other:.10f}: {apart:.2e} apart, {allowed:.2e} "
                "allowed",
                place=place(entry.place),
                one=entry.one,
                other=entry.other,
                apart=entry.difference,
                allowed=entry.tolerance,
            )
        )
    prose(
        console,
        tr(
            "This close to 0 the relative tolerance is almost nothing, and the absolute tolerance, "
            "1e-8, is less than the rounding error of float32 numbers around 1. Nothing is wrong: "
            "use atol=1e-7, or float64."
        ),
    )


def show_bigram(console: Console, found: "Bigram") -> None:
    """Print the table of counts, compared with the trained table if there is one."""
    heading(console, tr("Counting pairs in {text}", text=found.corpus))
    possible = found.vocab_size**2
    facts = Table.grid(padding=(0, 2))
    facts.add_column()
    facts.add_column(justify="right")
    facts.add_row(tr("pairs of tokens in the training part"), f"{found.pairs:,}")
    distinct = tr("distinct pairs, of {possible:,} possible", possible=possible)
    facts.add_row(distinct, f"{found.distinct_pairs:,}")
    facts.add_row(tr("loss of the uniform guess"), nats(found.uniform_loss))
    facts.add_row(tr("lowest loss of any table"), nats(found.best_loss))
    trained = found.trained
    if trained:
        facts.add_row(tr("trained table at initialisation"), nats(trained.loss_at_birth))
        facts.add_row(tr("trained table at step {step:,}", step=trained.step), nats(trained.loss))
        facts.add_row(tr("above the lowest"), nats(trained.left))
        facts.add_row(tr("share of the way done"), f"{trained.way_gone:.2%}")
    console.print(facts)
    console.print(tr("Losses are exact: the mean over every pair of the training part."))
    heading(
        console,
        tr("Where the trained table is furthest from the counts")
        if trained
        else tr("What follows the most frequent tokens"),
    )
    numbers = [tr("times"), tr("entropy")]
    likely = tr("most likely next")
    if trained:
        numbers += [tr("divergence"), tr("adds")]
        likely = tr("most likely next: counted, trained")
    compared = table((tr("after"), *numbers, likely), numbers=numbers)
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
            tr(
                "The divergence is the Kullback-Leibler divergence of the trained row from the "
                "counted one, in nats. Multiplied by the row's share of all pairs it is what the "
                "row adds to the loss. Over all rows that sums to {nats:.4f} nats above the lowest "
                "loss.",
                nats=trained.left,
            ),
        )


def heading(console: Console, text: str) -> None:
    """Print a section's heading."""
    console.print(f"\n[bold]{text}[/]")


def prose(console: Console, text: str) -> None:
    """Print a paragraph, wrapped for a terminal of 80 columns."""
    lines = textwrap.wrap(text, 78)
    if cell_len(text) > len(text):  # which textwrap would let run to twice the width
        lines = [line.plain.rstrip() for line in Text(text).wrap(console, 78)]
    console.print("\n" + "\n".join(lines))


def nats(loss: float) -> str:
    """A loss with its unit."""
    return tr("{loss:.4f} nats", loss=loss)


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
    names, where = (tr("forms"), tr("precision")), tr("at b,t,c")
    numbers = (tr("differ"), tr("at most"), where, "ulps")
    compared = table((*names, *numbers, where, "allclose"), numbers=numbers, unbroken=names)
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
