"""What a model from elsewhere knows before the first step, and has forgotten after the last.

Losses are in nats a character, so that models with other tokens can be compared.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import msgspec

from hornbook.errors import DataError
from hornbook.eval.baselines import character_ngrams
from hornbook.eval.loss import estimate, losses, per_char
from hornbook.language import joined, msg
from hornbook.runs.folder import runs_on
from hornbook.text.corpus import read_corpus

if TYPE_CHECKING:
    from hornbook.models.language_model import LanguageModel
    from hornbook.pretrained.source import Source
    from hornbook.runs.result import Result
    from hornbook.text.tokenizer import Tokenizer
    from hornbook.training.trainer import Trainer

# A text that comes with Python, on which forgetting is measured.
GENERAL, GENERAL_CHARACTERS = "python-docs", 20_000
# Texts of the catalogue that everybody's pre-training has.
FAMOUS = ("shakespeare", "python-docs")


@dataclass(frozen=True)
class Start:
    """A model before training. `general` names the text that forgetting is measured on."""

    name: str
    val_nats_per_char: float
    ngram_nats_per_char: float | None = None
    best_run: str | None = None
    best_run_nats_per_char: float | None = None
    general: str | None = None
    general_nats_per_char: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    known_text: bool = False

    @classmethod
    def of(cls, environment: dict[str, Any]) -> Self | None:
        """What a run's `environment.json` recorded; None where that is not a start."""
        try:
            found = msgspec.convert(environment.get("pretrained"), cls)
        except msgspec.ValidationError:
            return None
        template = environment.get("chat_template")
        return replace(found, chat_template=template if isinstance(template, str) else None)

    def recorded(self) -> dict[str, Any]:
        """As `environment.json` has it."""
        figures = {name: value for name, value in asdict(self).items() if name != "chat_template"}
        return {"pretrained": figures, "chat_template": self.chat_template}

    def compared(self, result: Result) -> dict[str, Any]:
        """These figures beside those after training: what was gained, and what was forgotten."""
        trained = result.trained
        after = None
        if self.general is not None:
            after = loss_on(trained.model, trained.tokenizer, general_text())
        return {**self.recorded()["pretrained"], "general_nats_per_char_after": after}

    def sentences(self) -> list[str]:
        """What a person should know before they wait, a sentence each."""
        loss = self.val_nats_per_char
        first = [msg("before the first step: {loss:.4f} nats per character", loss=loss)]
        if (loss := self.ngram_nats_per_char) is not None:
            first.append(msg("n-grams of the same text: {loss:.4f}", loss=loss))
        if (loss := self.best_run_nats_per_char) is not None:
            first.append(msg("from scratch, {run}: {loss:.4f}", run=self.best_run, loss=loss))
        found = [joined("; ", first)]
        if (loss := self.general_nats_per_char) is not None:
            general = msg(
                "before the first step, on {text}: {loss:.4f}", text=self.general, loss=loss
            )
            found.append(general)
        if self.known_text:
            found.append(
                msg(
                    "this text was very likely in the model's pre-training, so its loss says "
                    "little of texts that it has not seen"
                )
            )
        others = [self.ngram_nats_per_char, self.best_run_nats_per_char]
        best = min((each for each in others if each is not None), default=None)
        if best is not None and best < self.val_nats_per_char:
            found.append(
                msg(
                    "the model knows less of this text ({loss:.2f}) than one that was made from "
                    "the text alone ({best:.2f}), as an English model does of Korean: without "
                    "--from the result will likely be better",
                    loss=self.val_nats_per_char,
                    best=best,
                )
            )
        return [*found]


def measured_start(trainer: Trainer, source: Source) -> Start:
    """Measure a model that has just been loaded, on its new text and on a general one."""
    model, dataset, corpus = trainer.state.model, trainer.dataset, trainer.corpus
    found = estimate(
        model,
        dataset.validation,
        block_size=trainer.config.model.context_size,
        max_positions=trainer.config.train.eval_positions,
        answers=dataset.validation_answers,
    )
    # Of conversations only answers count, and these predictors count all.
    whole = dataset.answers is None
    others = runs_on(corpus.sha256) if whole else ()
    best = min(others, key=lambda each: each[1], default=(None, None))
    general = general_text() if corpus.name != GENERAL else None
    return Start(
        name=source.name,
        val_nats_per_char=found * per_char(dataset.tokenizer, dataset.measured),
        ngram_nats_per_char=character_ngrams(corpus, trainer.config) if whole else None,
        best_run=best[0],
        best_run_nats_per_char=best[1],
        general=GENERAL if general else None,
        general_nats_per_char=loss_on(model, dataset.tokenizer, general) if general else None,
        facts=source.facts,
        chat_template=trainer.config.data.chat_template or source.chat_template,
        known_text=source.facts.get("format") != "run" and corpus.name in FAMOUS,
    )


def general_text() -> str:
    """The end of the general text."""
    return "".join(read_corpus(GENERAL).chunks())[-GENERAL_CHARACTERS:]


def loss_on(model: LanguageModel, tokenizer: Tokenizer, text: str) -> float | None:
    """A model's loss on a text in nats per character; None where its alphabet lacks much of it."""
    fitted, _ = tokenizer.fit(text, "skip")
    if len(fitted) < len(text) / 2:
        return None
    tokens = tokenizer.encode_array(fitted)
    size = min(model.context_size, len(tokens) - 1)
    try:
        found = losses(model, tokens, block_size=size)
    except DataError:
        return None
    return float(found.mean()) * per_char(tokenizer, tokens)
