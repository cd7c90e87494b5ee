"""`hornbook trace`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hornbook.cli.console import note, output, printable
from hornbook.cli.terminal import TEXT, CorpusArgument, Natural, print_json
from hornbook.errors import ConfigError
from hornbook.language import msg, tr, translated

if TYPE_CHECKING:
    from hornbook.report.copies import Trace

# For matches as long as none, one, two or all of LENGTHS. Both colours are set, so that they are
# legible on any background; without colours the strokes distinguish them.
STYLES = ("", "underline", "black on yellow", "bold underline white on red")

# Passages printed in the list; --json has them all.
MOST_LISTED = 20


def run(
    run: Path,
    text: CorpusArgument = None,
    /,
    *,
    samples: Natural | None = None,
    max_new_tokens: Natural = 500,
    temperature: float = 1.0,
    seed: Natural = 0,
    checkpoint: Literal["best", "last"] = "best",
    at_least: Natural = 20,
    encoding: str | None = None,
    field: str | None = None,
    moved: Annotated[str | None, TEXT] = None,
    json: bool = False,
) -> None:
    """Show which parts of a text are copied verbatim from a model's training text, and from where.

    For comparison, the same figure is given for real text that the model was not trained on.

    Args:
        run: The run folder.
        text: The text to trace: a file, or - for standard input; by default new samples from the
            model.
        samples: How many samples to generate; 3 if neither this nor a text is given.
        max_new_tokens: The most tokens of each sample.
        temperature: Below 1 safer, above 1 bolder; 0 always takes the most likely token.
        seed: The first sample's seed; the next sample takes the next one.
        checkpoint: Which weights to use: those with the lowest validation loss, or the last.
        at_least: List passages of this many characters or more.
        encoding: The encoding of the text to trace, if it is not UTF-8.
        field: Trace one field of JSON Lines, CSV or Parquet.
        moved: Where the run's own text is now, if it was moved since.
        json: Print one JSON object with every passage and its offsets in characters.
    """
    from hornbook.cli.texts import read
    from hornbook.report.tracing import trace
    from hornbook.runs.load import load

    if text is not None and samples is not None:
        raise ConfigError(msg("give either a text or --samples, not both"))
    found = trace(
        run if moved is None else load(run, which=checkpoint, text=moved),
        None if text is None else read(text, encoding, field).text,
        samples=3 if samples is None else samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        at_least=at_least,
        checkpoint=checkpoint,
        on_note=note,
    )
    if json:
        print_json(found.as_dict(), ascii_only=False)
    else:
        show(output(), found)


def show(console: Console, found: "Trace") -> None:
    """Print the coloured texts, the shares copied, and the list of passages."""
    from hornbook.report.copies import LENGTHS, on_one_line

    for number, each in enumerate(found.texts):
        # The user's own text is printed for its colours only.
        if not (found.sampled or console.is_terminal):
            continue
        if found.sampled:
            name = tr("sample {number}, seed {seed}", number=number + 1, seed=each.seed)
            console.print(Text(name if number == 0 else f"\n{name}", style="dim"))
        pieces = ((printable(piece), STYLES[level]) for piece, level in each.pieces())
        console.print(Text.assemble(*pieces))
    console.print()
    shares = Table(box=None, pad_edge=False)
    shares.add_column(tr("in verbatim matches of"), header_style="dim")
    for length, style in zip(LENGTHS, STYLES[1:], strict=True):
        shares.add_column(Text(f"{length}+", style=style), justify="right", no_wrap=True)
    shares.add_column(tr("longest"), justify="right", header_style="dim", no_wrap=True)
    for row in found.share_rows():
        shares.add_row(*map(translated, row))
    console.print(shares)
    passages = found.passages()
    if passages:
        listed = Table(box=None, pad_edge=False, header_style="dim")
        listed.add_column(tr("length"), justify="right", no_wrap=True)
        listed.add_column(tr("words in their context"), ratio=1)
        listed.add_column(tr("first at"))
        listed.add_column(tr("times"), justify="right", no_wrap=True)
        for each in passages[:MOST_LISTED]:
            words = Text.assemble(
                (printable(on_one_line(each.before)), "dim"),
                (f"[{printable(on_one_line(each.text))}]", "bold"),
                (printable(on_one_line(each.after)), "dim"),
            )
            where = Text(printable(translated(found.where(each))))
            listed.add_row(f"{each.match.length:,}", words, where, f"{each.match.occurrences:,}")
        console.print(Padding(listed, (1, 0, 0, 0)))
        if len(passages) > MOST_LISTED:
            console.print(tr("and {number:,} more, in --json", number=len(passages) - MOST_LISTED))
    else:
        none = tr(
            "No {number} characters in a row occur in the training text.", number=found.at_least
        )
        console.print(f"\n{none}")
    searched = tr("{number:,} characters of training text", number=found.training_characters)
    console.print(f"\n[bold]{translated(found.summary)}[/] ({searched})")
