"""`hornbook eval`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.markup import escape

from hornbook.cli.console import note, output
from hornbook.cli.terminal import TEXT, CorpusArgument, fit_text, print_json, table
from hornbook.errors import ConfigError, DataError, HornbookError, display_path
from hornbook.language import msg, tr

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
    field: str | None = None,
    text: Annotated[str | None, TEXT] = None,
    dynamic: Annotated[bool, Parameter(negative="")] = False,
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
        dynamic: Measure also a copy of the model that learns as it reads, as a compressor does:
            each position is predicted from the training text and all text before it. The run is not
            changed.
        json: Print one JSON object instead of a table.
    """
    from hornbook.cli.texts import read
    from hornbook.eval.baselines import spread
    from hornbook.eval.loss import MOST_EVALUATED
    from hornbook.eval.split import find_copied
    from hornbook.runs.load import load
    from hornbook.runs.result import DYNAMIC_FIGURES
    from hornbook.text.dataset import formed

    if corpus is not None and text is not None:
        raise ConfigError(
            msg("--text says where the run's own text is; give either it or a corpus")
        )
    trained = load(run, which=checkpoint, text=text)
    skipped, answers = (), None
    if corpus is None:
        own = trained.dataset()
        named = msg("{text}, validation part", text=display_path(trained.config.data.corpus))
        tokens, name = own.validation, named
        answers = own.validation_answers
    else:
        own = own_text(trained)
        other = formed(read(corpus, encoding, field), trained.config.data)
        words = fit_text(trained.tokenizer, other.text, unknown)
        tokens, name = trained.tokenizer.encode_array(words), display_path(other.source)
        skipped = other.skipped
    found = trained.evaluate_tokens(tokens, answers=answers)
    learning = None
    if dynamic:
        before = own or trained.dataset()  # raises, where the run's text cannot be read
        learning = trained.evaluate_dynamically(before.train, tokens, answers=answers)
    copied = None
    if own is not None:
        copied = find_copied(
            trained.tokenizer, spread(tokens, MOST_EVALUATED), own.train, own.train_tokens
        )
        if copied.much:
            note(
                msg(
                    "{sentence}, so the loss is lower than on new text",
                    sentence=copied.sentence(msg("the text")),
                )
            )
    if json:
        files = [asdict(each) for each in skipped]
        share = copied and copied.share
        figures = found.as_dict()
        if learning:
            adapted = learning.as_dict()
            figures |= {f"dynamic_{name}": adapted[name] for name in DYNAMIC_FIGURES}
        print_json({**figures, "copied_share": share, "skipped_files": files})
        return
    console = output()
    measured = tr(
        "{run}, step {step}, on {text}: {positions:,} positions",
        run=display_path(run),
        step=trained.step,
        text=name,
        positions=found.positions,
    )
    console.print(escape(measured))
    losses = table()
    for label, value in (
        (tr("nats per token"), found.nats_per_token),
        (tr("nats per character"), found.nats_per_char),
        (tr("bits per character"), found.bits_per_char),
        (tr("bits per byte"), found.bits_per_byte),
        (tr("nats per character, sliding window"), found.sliding_nats_per_char),
        (
            tr("nats per character, learning as it reads"),
            learning and learning.nats_per_char,
        ),
    ):
        if value is not None:
            losses.add_row(label, f"{value:.4f}")
    console.print(losses)
    if learning and learning.standard_error is not None:
        console.print(
            tr(
                "learning as it reads: {positions:,} evenly spaced positions, standard error "
                "{error:.4f}",
                positions=learning.positions,
                error=learning.standard_error,
            )
        )


def own_text(trained: "TrainedModel") -> "Dataset | None":
    """The run's own text, to compare another with; None, with a note, where it cannot be read."""
    try:
        if "://" in trained.config.data.corpus:
            raise DataError(msg("the run's text is at an address, which is not read for that"))
        return trained.dataset()
    except HornbookError as error:
        note(msg("whether the model was trained on this text is not known: {error}", error=error))
        return None
