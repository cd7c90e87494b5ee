"""A GPT mixed with n-grams, decoded without torch: the GPT by decoder.c, the n-grams by numpy.

`models.mixture` and `models.context_counts` are the reference. They read whole blocks; here each
row keeps a state that every token updates, so that nothing is looked up or counted twice.

Shapes in names: V vocabulary, N the n-gram model's order, R the match lengths, S the positions read
so far, E the gate's features from n-grams, H the gate's hidden width.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hornbook.infer.decoder import outside
from hornbook.infer.native_decoder import (
    NativeDecoder,
    Precision,
    Weights,
    check_weights,
    most_layers,
)
from hornbook.models.schema import Schema, Shape
from hornbook.ngram.model import MIN_PROB, NGramModel, shortest_useful_match
from hornbook.ngram.states import NGramStates

Floats: TypeAlias = NDArray[np.float64]

NETWORK = "network."


class NativeMixture:
    """A `models.mixture.GPTWithCounts` for up to `rows` texts; see `Decoder`.

    `weights` have its names, the GPT's being those of `schema`. A row's logits do not depend on the
    other rows.
    Raises: CheckpointError for weights of another shape; NativeUnavailableError.
    """

    def __init__(
        self,
        schema: Schema,
        weights: Weights,
        ngram_model: NGramModel,
        *,
        context_size: int,
        precision: Precision | Literal["auto"] = "auto",
        rows: int = 1,
    ) -> None:
        check_weights(mixture_shapes(schema, weights, ngram_model), weights)
        network = network_weights(weights)
        from_hidden, from_ngrams = np.split(weights["evidence.weight"], [schema.n_embd], axis=1)
        # The gate's product with the last hidden state is computed as more rows of the logits'
        # matrix, as if the vocabulary were longer.
        for name, more in (
            ("logits.weight", from_hidden),
            ("embedding.weight", np.zeros_like(from_hidden)),
        ):
            network[name] = np.concatenate([network[name], more])
        longer = replace(schema, vocab_size=schema.vocab_size + len(from_hidden))
        self._network = NativeDecoder(
            longer, network, context_size=context_size, precision=precision, rows=rows
        )
        self.precision, self.threads = self._network.precision, self._network.threads
        self.context_size, self.vocab_size = context_size, schema.vocab_size
        self.rows = rows
        self._strength_R = np.exp(weights["recent.log_strength"], dtype=np.float64)
        self._features_HE, self._features_bias_H, self._gate_1H, self._gate_bias_1 = (
            array.astype(np.float64)
            for array in (
                from_ngrams,
                *(weights[name] for name in ("evidence.bias", "trust.weight", "trust.bias")),
            )
        )
        self._chains = NGramStates(ngram_model)
        self._shortest = shortest_useful_match(ngram_model.vocab_size)
        longest = self._shortest + len(self._strength_R) - 1
        self._texts = [Text(self._chains, context_size, longest) for _ in range(rows)]

    def forward(
        self, tokens: Sequence[Sequence[int]], rows: Sequence[int], starts: Sequence[int]
    ) -> NDArray[np.float32]:
        """Logits after the last new token of each row, [R,V]; see `Decoder`.

        Raises: IndexError for a token, row or position outside the model, or a row named twice.
        """
        if any(max(each, default=0) >= self.vocab_size for each in tokens):
            raise outside(self, tokens, rows, starts)
        network = self._network.forward(tokens, rows, starts).astype(np.float64)
        mixed = []
        for logits, new, row, start in zip(network, tokens, rows, starts, strict=True):
            text = self._texts[row]
            text.extend(new, start)
            mixed.append(self._mix(logits, text))
        return np.array(mixed, np.float32)

    def forward_each(self, tokens: Sequence[int], row: int, start: int) -> NDArray[np.float32]:
        """Logits after each new token of one row, [T,V].

        Raises: IndexError as `forward`.
        """
        if max(tokens, default=0) >= self.vocab_size:
            raise outside(self, [tokens], [row], [start])
        network_TV = self._network.forward_each(tokens, row, start).astype(np.float64)
        text = self._texts[row]
        mixed: list[Floats] = []
        for t, token in enumerate(tokens):
            text.extend([token], start + t)
            mixed.append(self._mix(network_TV[t], text))
        return np.array(mixed, np.float32)

    def copy(self, source: int, row: int, length: int) -> None:
        """Make a row begin with another's first `length` positions; see `Decoder`.

        Raises: IndexError for a row outside the model, or positions that have not been read.
        """
        self._network.copy(source, row, length)
        self._texts[row].extend(self._texts[source].tokens[:length].tolist(), 0)

    def _mix(self, network: Floats, text: "Text") -> Floats:
        """`models.mixture.GPTWithCounts.join` for one position."""
        backoff_N = self._chains.backoff(text.chain)
        p_V, matches_R = self._with_context(self._chains.probs(text.chain), text)
        features_E = np.concatenate([backoff_N, backoff_N < 1, np.log1p(matches_R)])
        hidden_H = (
            network[self.vocab_size :] + self._features_HE @ features_E + self._features_bias_H
        )
        silu_H = hidden_H / (1 + np.exp(-hidden_H))
        gate_1 = self._gate_1H @ silu_H + self._gate_bias_1
        return network[: self.vocab_size] + gate_1 * np.log(np.maximum(p_V, MIN_PROB))

    def _with_context(self, p_V: Floats, text: "Text") -> tuple[Floats, NDArray[np.int64]]:
        """`models.context_counts.Recent` for one position: probabilities, and matches by length."""
        lengths_S = text.match_lengths()
        past = (lengths_S >= self._shortest).nonzero()[0]
        length = lengths_S[past] - self._shortest
        # A match of so many tokens is a match of every shorter length too.
        matches_R = np.bincount(length, minlength=len(self._strength_R))[::-1].cumsum()[::-1]
        share_R = 1 / (matches_R + self._strength_R)
        left_R = (self._strength_R * share_R)[::-1].cumprod()[::-1]
        weight_R = (share_R * np.append(left_R[1:], 1.0)).cumsum()
        added_V = np.bincount(text.tokens[past + 1], weight_R[length], minlength=self.vocab_size)
        return left_R[0] * p_V + added_V, matches_R


class Text:
    """One row's tokens so far: their n-gram contexts, and where the last few have come before.

    Match lengths, at most `longest`, are extended by each token; the reference compares all
    positions again.
    """

    def __init__(self, chains: NGramStates, context_size: int, longest: int) -> None:
        self._chains = chains
        self._longest = longest
        self._lengths = np.zeros(context_size + 1, np.int64)
        self.tokens = np.zeros(context_size, np.int64)
        self.length = 0
        self.chain = NGramStates.BEGINNING

    def match_lengths(self) -> NDArray[np.int64]:
        """For every position but the last: how many tokens up to it equal those up to the last."""
        return self._lengths[1 : self.length]

    def extend(self, tokens: Sequence[int], start: int) -> None:
        """Put tokens at a position and those after it; what stood there is forgotten."""
        if start != self.length:
            tokens = [*self.tokens[:start].tolist(), *tokens]
            self.length, self.chain = 0, NGramStates.BEGINNING
        for token in tokens:
            self.chain = self._chains.after(self.chain, token)
            # The length before the text's beginning is always 0.
            longer_S = np.minimum(self._lengths[: self.length] + 1, self._longest)
            self._lengths[1 : self.length + 1] = longer_S * (self.tokens[: self.length] == token)
            self.tokens[self.length] = token
            self.length += 1


def network_weights(weights: Weights) -> dict[str, NDArray[np.float32]]:
    """The GPT's own weights among those of a mixture, by the GPT's names."""
    return {
        name.removeprefix(NETWORK): array
        for name, array in weights.items()
        if name.startswith(NETWORK)
    }


def mixture_shapes(schema: Schema, weights: Weights, ngram_model: NGramModel) -> dict[str, Shape]:
    """The name and shape of every weight; match lengths and hidden width as the weights have them.

    Shapes beside the network's: [R], [H,E], [H], [1,H], [1].
    """
    R, H = (np.size(weights.get(name, ())) for name in ("recent.log_strength", "evidence.bias"))
    network = schema.weights(most_layers(schema, weights))
    return {
        **{NETWORK + name: shape for name, shape in network.items()},
        "recent.log_strength": (R,),
        "evidence.weight": (H, schema.n_embd + 2 * ngram_model.order + R),
        "evidence.bias": (H,),
        "trust.weight": (1, H),
        "trust.bias": (1,),
    }
