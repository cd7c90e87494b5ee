"""`hornbook eval`."""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from hornbook.cli.terminal import CorpusArgument, fit_text, output, print_json, read, table


def run(
    run: Path,
    corpus: CorpusArgument = None,
    /,
    *,
    checkpoint: Literal["best", "last"] = "best",
    unknown: Literal["error", "skip", "replace"] = "error",
    encoding: str | None = None,
    field: str | None = None,
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
        json: Print one JSON object instead of a table.
    """
    from hornbook.runs.load import load
    from hornbook.text.dataset import formed

    trained = load(run, which=checkpoint)
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
    console.print(f"{run}, step {trained.step}, on {name}: {found.positions:,} positions")
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
