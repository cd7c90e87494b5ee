"""`hornbook eval`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from rich.markup import escape

from hornbook.cli.console import output
from hornbook.cli.terminal import TEXT, CorpusArgument, fit_text, print_json, read, table
from hornbook.errors import ConfigError, display_path


def run(
    run: Path,
    corpus: CorpusArgument = None,
    /,
    *,
    checkpoint: Literal["best", "last"] = "best",
    unknown: Literal["error", "skip", "replace"] = "error",
    encoding: str | None = None,
    field: str | None = None,
    text: Annotated[str | None, TEXT] = None,
    json: bool = False,
) -> None:
    """Measure a trained model's exact loss: the mean over every position of a text.

    Args:
        run: The run folder.
        corpus: A name, a file, a folder, a URL, or - for standard input; by default the validation
            part of the run's own text.
        checkpoint: Which weights: those with the lowest validation loss, or the last.
        unknown: What to do with characters that are not in the model's vocabulary.
        encoding: The text's encoding, if it is not UTF-8; auto finds it for each file.
        field: Read one field of JSON Lines, CSV or Parquet.
        text: Where the run's own text is now, if it was moved since.
        json: Print one JSON object instead of a table.
    """
    from hornbook.runs.load import load
    from hornbook.text.dataset import formed

    if corpus is not None and text is not None:
        raise ConfigError("--text says where the run's own text is; give either it or a corpus")
    trained = load(run, which=checkpoint, text=text)
    skipped = ()
    if corpus is None:
        found, name = trained.evaluate(), f"{trained.config.data.corpus}, validation part"
    else:
        other = formed(read(corpus, encoding, field), trained.config.data)
        text = fit_text(trained.tokenizer, other.text, unknown)
        found, name = trained.evaluate_text(text), other.source
        skipped = other.skipped
    if json:
        print_json({**found.as_dict(), "skipped_files": [asdict(each) for each in skipped]})
        return
    console = output()
    on = escape(f"{display_path(run)}, step {trained.step}, on {display_path(name)}")
    console.print(f"{on}: {found.positions:,} positions")
    losses = table()
    for label, value in (
        ("nats per token", found.nats_per_token),
        ("nats per character", found.nats_per_char),
        ("bits per character", found.bits_per_char),
        ("bits per byte", found.bits_per_byte),
        ("nats per character, sliding window", found.sliding_nats_per_char),
    ):
        if value is not None:
            losses.add_row(label, f"{value:.4f}")
    console.print(losses)
