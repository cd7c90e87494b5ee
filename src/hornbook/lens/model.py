"""A trained model that can be looked into: what `hb.load` returns."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

from hornbook.errors import HornbookError
from hornbook.runs.load import TrainedModel
from hornbook.runs.load import load as load_run

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from hornbook.lens.seen import Seen
    from hornbook.text.arrays import Tokens


class Model(TrainedModel):
    """A trained model with its tokenizer and settings, which shows how it reads a text."""

    def look(self, text: str = "", *, token: str | None = None) -> Seen:
        """Read a text and keep what is seen: attention, the logit lens, attribution, votes.

        Nothing of the model changes. `token` is whose logit is attributed; by default the one that
        came. An empty text stands for the end of a line.
        Raises: UnknownCharacterError; DataError for a text that is too long; ConfigError for a
        `token` that is not one token.
        """
        from hornbook.lens.look import look
        from hornbook.models.language_model import has_hooks
        from hornbook.text.forms import formed_text

        seen = look(
            self.model,
            self.tokenizer,
            formed_text(text, self.config.data),
            token=token,
            train=self.training_tokens if self.config.model.reads_counts else None,
        )
        changed = has_hooks(self.model) or getattr(self.model, "mixer_is_off", False)
        return seen if changed else replace(seen, model=self)

    @contextmanager
    def without(self, **parts: Any) -> Iterator[Self]:
        """Inside, parts of the model are off, as `hornbook.lens.without.without` takes them.

        heads=[(2, 1)] is head 1 of layer 2, and mlps=[0] the MLP of layer 0; network, ngrams,
        cache, gate and mixer are parts of a joined model. `look`, `generate` and `evaluate` follow.
        Raises: ConfigError for a part that the model does not have, or if nothing is left.
        """
        from hornbook.lens.without import without

        with without(self.model, **parts):
            yield self

    @cached_property
    def training_tokens(self) -> Tokens | None:
        """The tokens in which n-grams were counted; None where the text is not at hand."""
        if "://" in self.config.data.corpus:  # it would be downloaded
            return None
        try:
            return self.dataset().train
        except HornbookError:
            return None


def load(
    path: str | os.PathLike[str],
    *,
    which: Literal["best", "last"] = "best",
    device: str = "cpu",
    text: str | None = None,
    mixed: bool = True,
) -> Model:
    """The trained model of a run folder: its best weights, or its last.

    `text` says where the run's text is now, if it was moved. With `mixed=False` a mixer that was
    learned beside these weights is left out.
    Raises: CheckpointError when the run is missing, unfinished or damaged.
    """
    found = load_run(path, which=which, device=device, text=text, mixed=mixed)
    return Model(**vars(found))
