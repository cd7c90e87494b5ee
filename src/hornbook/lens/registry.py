"""The anatomy of each model."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hornbook.errors import ConfigError
from hornbook.language import msg
from hornbook.lens.anatomy import Activations, Anatomy
from hornbook.lens.gpt import GPTAnatomy
from hornbook.lens.lecture import AverageAnatomy, BigramAnatomy, LectureAnatomy
from hornbook.lens.tape import Tape
from hornbook.models.attention import PositionedLanguageModel
from hornbook.models.averaging import AverageLanguageModel
from hornbook.models.bigram import BigramLanguageModel
from hornbook.models.gpt import GPT
from hornbook.models.language_model import LanguageModel
from hornbook.models.mixing import Mixing
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.ngram import NGramLanguageModel


class NGramAnatomy(Anatomy):
    """N-grams alone have no network to look into."""

    def __init__(self, _model: NGramLanguageModel) -> None:
        super().__init__(nn.Identity(), nn.Identity())

    def parts(self) -> list[nn.Module]:
        return []

    def activations(self, tape: Tape) -> Activations:  # noqa: ARG002
        return {}

    def writes(self, seen: Activations) -> dict[str, Tensor]:  # noqa: ARG002
        return {}


ANATOMIES: dict[type[LanguageModel], Callable[[Any], Anatomy]] = {
    GPT: GPTAnatomy,
    PositionedLanguageModel: LectureAnatomy,
    AverageLanguageModel: AverageAnatomy,
    BigramLanguageModel: BigramAnatomy,
    NGramLanguageModel: NGramAnatomy,
}


def unmixed(model: LanguageModel) -> LanguageModel:
    """A model without its mixer, where it has one."""
    return model.network if isinstance(model, Mixing) else model


def anatomy_of(model: LanguageModel) -> Anatomy:
    """The anatomy of a model's network; n-grams have an empty one.

    Raises: ConfigError for a class that hornbook does not have.
    """
    model = unmixed(model)
    network = model.network if isinstance(model, GPTWithCounts) else model
    for kind, anatomy in ANATOMIES.items():
        if isinstance(network, kind):
            return anatomy(network)
    raise ConfigError(
        msg(
            "expected one of hornbook's models to look into, got a {kind}",
            kind=type(network).__name__,
        )
    )
