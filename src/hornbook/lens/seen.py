"""What was seen in a model while it read a text: named arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hornbook.errors import ConfigError, HornbookError
from hornbook.language import msg, tr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hornbook.runs.load import TrainedModel

Floats: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]

# TransformerLens's short names of what an attention has; all others stand in the block itself.
IN_ATTENTION = ("q", "k", "v", "z", "rot_q", "rot_k", "attn_scores", "pattern", "result")


@dataclass(frozen=True, eq=False)
class Vote:
    """What one part of a joined model proposes after each position, and how much it weighs.

    `matched` and `count` are of n-grams: how many tokens of context matched, and how often these
    stood in the training text (of the context cache: earlier in the text itself). `count` is None
    where the run's text cannot be read.
    """

    probs: Floats  # [T,V]; zeros where it proposes nothing
    weight: Floats  # [T]
    matched: Ids | None = None  # [T]
    count: Ids | None = None  # [T]


@dataclass(frozen=True, eq=False, repr=False)
class Seen:
    """A text as a model saw it: named arrays.

    T tokens, V tokens in the vocabulary, L layers, H heads, C the width of the model.

    ids [T], tokens: the text; a token as text shows bytes that are no whole character as <0xEA>.
    vocabulary: every token of the model as text.
    logits, probs [T,V]: the prediction after each position.
    attention [L,H,T,S]: how much each position attends to each of S = T; rows sum to 1.
    residual [L+1,T,C]: the residual stream after the embedding and after each layer.
    logit_lens [L,T,V]: log-probabilities if a layer were the last: its residual through the last
        norm and the table of logits. Beside n-grams they are the network's part alone.
    attribution [components,T]: what each of `components` adds to the logit of `targets`, with the
        scale of the last norm taken as it is; they sum to the logit.
    targets [T]: the token that came after each position, and after the last one the likeliest; or
        the token that was chosen.
    votes: what "network", "ngrams", "cache" and "gate" propose. In a joined model, up to a constant
        a position, logits = log(network.probs) + gate.weight * log(gate.probs), and gate.probs =
        ngrams.weight * ngrams.probs + cache.weight * cache.probs. A "mixer" corrects these logits:
        its probs are the prediction, and its weight the share of the probability that it moved.
    activations: by name; `seen["blocks.0.attn.hook_pattern"]` or `seen["pattern", 0]` gives one.
    model: the trained model that was read; None where hooks had changed it.
    """

    text: str
    ids: Ids
    tokens: tuple[str, ...]
    vocabulary: tuple[str, ...]
    logits: Floats
    probs: Floats
    attention: Floats
    residual: Floats
    logit_lens: Floats
    attribution: Floats
    components: tuple[str, ...]
    targets: Ids
    votes: Mapping[str, Vote]
    activations: Mapping[str, Floats]
    model: TrainedModel | None = None

    @property
    def hooks(self) -> tuple[str, ...]:
        """The names of all activations."""
        return tuple(self.activations)

    def __getitem__(self, name: str | tuple[str, int]) -> Floats:
        """An activation: "blocks.0.attn.hook_pattern", or ("pattern", 0). Layer -1 is the last.

        Shapes: hook_resid_* [T,C]; hook_q, hook_k, hook_v, hook_z [T,H,D]; hook_pattern [H,T,S].
        Raises: ConfigError for a name that is not there.
        """
        found = self.activations.get(name if isinstance(name, str) else self._full_name(*name))
        if found is None:
            raise ConfigError(
                msg("no activation {name!r} was seen; `hooks` lists all names", name=name)
            )
        return found

    def _full_name(self, name: str, layer: int) -> str:
        layer += len(self.attention) if layer < 0 else 0
        part = "attn." if name in IN_ATTENTION else ""
        return f"blocks.{layer}.{part}hook_{name}"

    @property
    def losses(self) -> Floats:
        """The loss of each token but the first, in nats: [T-1]."""
        came = self.probs[np.arange(len(self.ids) - 1), self.ids[1:]]
        with np.errstate(divide="ignore"):
            return -np.log(came)

    def top(self, k: int = 5, *, position: int = -1) -> list[tuple[str, float]]:
        """The k likeliest tokens after a position, and their probabilities."""
        return likeliest(self.probs[position], self.vocabulary, k)

    def as_dict(self) -> dict[str, Any]:
        """Every array but `activations` as lists, for JSON; an infinite number is None."""
        named = ("ids", "logits", "probs", "attention", "residual", "logit_lens", "attribution")
        return {
            "text": self.text,
            "tokens": self.tokens,
            "vocabulary": self.vocabulary,
            "components": self.components,
            "targets": self.targets.tolist(),
            "losses": listed(self.losses),
            **{name: listed(getattr(self, name)) for name in named},
            "votes": {
                name: {
                    key: value if value is None else listed(value)
                    for key, value in vars(vote).items()
                }
                for name, vote in self.votes.items()
            },
        }

    def _repr_html_(self) -> str:
        """What a notebook shows: the run's page in a frame, and a picture that needs no scripts.

        The page holds the model as it is: where hooks had changed it, there is the picture alone.
        """
        from hornbook.lens.picture import picture
        from hornbook.page import frame

        still = picture(self)
        if self.model is None:
            return still
        try:
            framed = frame(self.model, self.text)
        except HornbookError:  # the model does not fit into a page
            return still
        summary = tr("without scripts")
        return f"{framed}<details><summary>{summary}</summary>{still}</details>"

    def __repr__(self) -> str:
        layers, heads = self.attention.shape[:2]
        return f"<Seen {self.text[:40]!r}: {len(self.ids)} tokens, {layers} layers, {heads} heads>"


def likeliest(probs_V: Floats, vocabulary: tuple[str, ...], k: int) -> list[tuple[str, float]]:
    """The k likeliest tokens of a distribution, likeliest first."""
    order = np.argsort(-probs_V, kind="stable")[:k]
    return [(vocabulary[i], float(probs_V[i])) for i in order]


def listed(array: NDArray[Any]) -> list[Any]:
    """An array as nested lists; floats to 6 significant digits, and infinite ones as None."""
    if array.dtype.kind != "f":
        return array.tolist()
    if array.ndim > 1:
        return [listed(row) for row in array]
    return [float(f"{x:.6g}") if math.isfinite(x) else None for x in array.tolist()]
