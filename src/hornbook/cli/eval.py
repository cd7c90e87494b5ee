"""`hornbook eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hornbook.cli.terminal import CorpusArgument, fit_text, note, output, print_json, read, table
from hornbook.errors import DataError, HornbookError

if TYPE_CHECKING:
    from hornbook.runs.load import TrainedModel
    from hornbook.text.dataset import Dataset


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
    """Measure a trained model's exact loss: the mean over every position of a text.

    Parameters
    ----------
    run
        The run folder.
    corpus
        A name, a file, a folder, a URL, or - for standard input; by default the validation part
        of the run's own text.
    checkpoint
        Which weights: those with the lowest validation loss, or the last.
    unknown
        What to do with characters that are not in the model's vocabulary.
    encoding
        The text's encoding, if it is not UTF-8.
    json
        Print one JSON object instead of a table.
    """
    from hornbook.eval.baselines import spread
    from hornbook.eval.loss import MOST_EVALUATED
    from hornbook.eval.split import find_copied
    from hornbook.runs.load import load

    trained = load(run, which=checkpoint)
    if corpus is None:
        own = trained.dataset()
        tokens, name = own.validation, f"{trained.config.data.corpus}, validation part"
    else:
        own = own_text(trained)
        other = read(corpus, encoding)
        text = fit_text(trained.tokenizer, other.text, unknown)
        tokens, name = trained.tokenizer.encode_array(text), other.source
    found = trained.evaluate_tokens(tokens)
    copied = None
    if own is not None:
        copied = find_copied(trained.tokenizer, spread(tokens, MOST_EVALUATED), own.train)
        if copied.much:
            note(f"{copied.sentence('the text')}, so the loss is lower than on new text")
    if json:
        print_json(found.as_dict() | {"copied_share": copied and copied.share})
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


def own_text(trained: "TrainedModel") -> "Dataset | None":
    """The run's own text, to compare another with; None, with a note, where it cannot be read."""
    try:
        if "://" in trained.config.data.corpus:
            raise DataError("the run's text is at an address, which is not read for that")
        return trained.dataset()
    except HornbookError as error:
        note(f"whether the model was trained on this text is not known: {error}")
        return None
