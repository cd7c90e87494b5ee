"""A run of ours as a model to begin from: its best weights, for another text."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from hornbook.errors import HornbookWarning, display_path
from hornbook.language import joined, msg
from hornbook.pretrained.source import GATE, Source, SourceError
from hornbook.runs.folder import open_run
from hornbook.runs.load import load
from hornbook.text.conversations import END, MARKS, conversations
from hornbook.text.tokenizer import load_tokenizer
from hornbook.text.tokenizer.characters import CharTokenizer
from hornbook.text.tokenizer.unknown import describe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from hornbook.text.corpus import Corpus

OF_THE_TEXT = ("tokenizer", "newlines", "normalize")
SHOWN_CHARACTERS = 5
# Of the rates that made a model, for going on with it: the full ones would undo what it learned.
SHARE_OF_RATES = 0.3


class GrownAlphabetWarning(HornbookWarning):
    """A text has characters that the model to begin from lacks; they get rows of their own."""


def open_run_source(path: Path) -> Source:
    """The model of a run.

    Raises: CheckpointError for a run that is missing, damaged or unfinished; SourceError for an
    n-gram model, which has nothing to train.
    """
    folder = open_run(path)
    config, where = folder.settings(), display_path(path)
    if config.model.spec.counted:
        raise SourceError(
            msg(
                "{where}: an n-gram model is counted anew for each text; nothing to train",
                where=where,
            )
        )
    # A mixer is of one text: the new run learns its own.
    trained = load(path, mixed=False)
    facts = folder.environment_facts()
    # Factors of LoRA are merged when a run is loaded.
    settings = asdict(replace(config.model, lora_rank=None))
    counts = getattr(trained.model, "counts", None)
    if counts is not None:  # the gate reads as many orders as it has learned to read
        settings["order"] = counts.order
    settings |= {
        name: getattr(config.data, name) for name in ("tokenizer", "newlines", "normalize")
    }
    template = facts.get("chat_template")

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in trained.model.named_parameters():
            inside = name.removeprefix("network.")
            yield (
                (GATE + name if counts is not None and inside == name else inside),
                tensor.detach(),
            )

    return Source(
        name=str(path.resolve()),
        settings={**settings, "pretrained": str(path.resolve())},
        tokenizer=load_tokenizer(folder.tokenizer),
        tensors=tensors,
        facts={
            "format": "run",
            "architecture": config.model.kind,
            "step": trained.step,
            "text": facts.get("corpus"),
            "pretrained": facts.get("pretrained"),
        },
        chat_template=template if isinstance(template, str) else None,
        rates={
            **asdict(config.optimizer),
            "learning_rate": SHARE_OF_RATES * config.optimizer.learning_rate,
            "muon_learning_rate": SHARE_OF_RATES * config.optimizer.muon_learning_rate,
        },
    )


def said(corpus: Corpus) -> Iterator[str]:
    """The text of a corpus; of conversations what they say, and the marks of roles."""
    if not corpus.conversations:
        yield from corpus.chunks()
        return
    yield "".join((*MARKS.values(), END))
    for messages in conversations(corpus.chunks()):
        yield "".join(each["content"] for each in messages)


def knowing(source: Source, corpus: Corpus) -> Source:
    """The source with every character of a text in its alphabet; takes one pass over the text.

    Raises: SourceError for a model of the lecture, whose alphabet cannot grow.
    """
    old = source.tokenizer
    if not isinstance(old, CharTokenizer):
        return source
    found = CharTokenizer.from_chunks(said(corpus)).chars
    new = "".join(sorted(set(found) - set(old.chars)))
    if not new:
        return source
    shown = joined(", ", map(describe, new[:SHOWN_CHARACTERS]))
    rest = len(new) - SHOWN_CHARACTERS
    more = msg(" and {number:,} more", number=rest) if rest > 0 else ""
    if source.settings["model"] != "gpt":
        raise SourceError(
            msg(
                "{name}: its alphabet lacks {shown}{more}, and only that of a gpt can grow",
                name=source.name,
                shown=shown,
                more=more,
            )
        )
    import warnings

    number = msg("{number:,} new characters", number=len(new))
    note = msg(
        "{number} in the alphabet ({shown}{more}): each begins as the mean of all others",
        number=number if len(new) > 1 else msg("1 new character"),
        shown=shown,
        more=more,
    )
    warnings.warn(note, GrownAlphabetWarning, stacklevel=3)
    grown = CharTokenizer(old.chars + new)
    places = {grown.stoi[character]: i for character, i in old.stoi.items()}
    return replace(source, tokenizer=grown, grown=places)
