"""`hornbook eval`."""

import json as json_format
import sys
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from hornbook.cli.terminal import CorpusArgument, fit_text, read


def run(
    run: Path,
    corpus: CorpusArgument = None,
    /,
    *,
    checkpoint: Literal["best", "last"] = "best",
    unknown: Literal["error", "skip", "replace"] = "error",
    encoding: str | None = None,
    json: bool = False,
) -> None:
    """Measure a trained model's exact loss: every position of a text, counted once.

    Parameters
    ----------
    run
        The run folder.
    corpus
        A name, a file, a folder, a URL, or - for standard input; the validation part of the
        run's own text when left out.
    checkpoint
        Which weights: those with the least validation loss, or the last.
    unknown
        What to do with characters the model has never seen.
    encoding
        The text's encoding, where it is not UTF-8.
    json
        Print one JSON object instead of a table.
    """
    from hornbook.runs.load import load

    trained = load(run, which=checkpoint)
    if corpus is None:
        found, name = trained.evaluate(), f"{trained.config.data.corpus}, validation part"
    else:
        other = read(corpus, encoding)
        text = fit_text(trained.tokenizer, other.text, unknown)
        found, name = trained.evaluate_text(text), other.source
    if json:
        sys.stdout.write(json_format.dumps(found.as_dict()) + "\n")
        return
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    console.print(f"{run}, step {trained.step}, on {name}: {found.positions:,} positions")
    table = Table(box=None, pad_edge=False, show_header=False)
    for label, value in (
        ("nats per token", found.nats_per_token),
        ("nats per character", found.nats_per_char),
        ("bits per character", found.bits_per_char),
        ("bits per byte", found.bits_per_byte),
        ("nats per character, sliding window", found.sliding_nats_per_char),
    ):
        if value is not None:
            table.add_row(label, f"{value:.4f}")
    console.print(table)
