"""A network joined with counts, decoded: the network in C, all that counts in numpy.

`models.joint` and `models.recent` are the reference, which read whole blocks; here a text is
followed token by token, and nothing is looked up or counted twice. Shapes in names: V vocabulary,
N the counts' order, R the lengths of run, S the positions read so far, H the width of the evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from hornbook.errors import CheckpointError
from hornbook.kernels.decoder import Decoder
from hornbook.ngram.model import MIN_PROB as LEAST
from hornbook.ngram.model import shortest_useful_match as shortest_telling_run
from hornbook.ngram.states import NGramStates as Chains

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hornbook.config import ModelConfig
    from hornbook.kernels.decoder import Precision, Weights
    from hornbook.ngram.model import NGramModel
    from hornbook.ngram.states import State as Chain

NETWORK = "network."
OF_JOIN = ("recent.log_strength", "evidence.weight")
OF_TRUST = ("evidence.bias", "trust.weight", "trust.bias")


class JointDecoder:
    """A GPT joined with counts that reads up to `rows` texts side by side; see `Decoder`.

    `weights` are named as `models.joint.GPTWithCounts` names them. A row's logits do not depend on
    the other rows.
    Raises: CheckpointError for weights that are not of this shape; NativeUnavailableError.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        counted: NGramModel,
        *,
        precision: Precision | Literal["auto"] = "auto",
        rows: int = 1,
    ) -> None:
        check_join(config, weights, counted)
        network = {
            name.removeprefix(NETWORK): array
            for name, array in weights.items()
            if name.startswith(NETWORK)
        }
        evidence_of_hidden, evidence_of_counts = np.split(
            weights["evidence.weight"], [config.n_embd], axis=1
        )
        # What the network's last hidden state says of trust is a product, as its logits are: the
        # decoder gives both, as if the vocabulary were so much longer.
        for name, more in (
            ("logits.weight", evidence_of_hidden),
            ("embedding.weight", np.zeros_like(evidence_of_hidden)),
        ):
            network[name] = np.concatenate([network[name], more])
        self._decoder = Decoder(config, network, precision=precision, rows=rows)
        self.precision, self.threads = self._decoder.precision, self._decoder.threads
        self.context_size, self.vocab_size = config.context_size, counted.vocab_size
        self._strength_R = np.exp(weights["recent.log_strength"], dtype=np.float64)
        self._evidence_HE, self._evidence_bias_H, self._trust_1H, self._trust_bias_1 = (
            array.astype(np.float64)
            for array in (evidence_of_counts, *(weights[name] for name in OF_TRUST))
        )
        self._chains = Chains(counted)
        self._shortest = shortest_telling_run(counted.vocab_size)
        longest = self._shortest + len(self._strength_R) - 1
        self._texts = [Text(self._chains, self.context_size, longest) for _ in range(rows)]

    def read(
        self, tokens_RT: Sequence[Sequence[int]], rows: Sequence[int], start: int = 0
    ) -> NDArray[np.float32]:
        """Read on from position `start` of each row: the logits after the last token, [R,V].

        Raises: IndexError for a token, row or position outside the model.
        """
        if any(max(tokens_T, default=0) >= self.vocab_size for tokens_T in tokens_RT):
            raise IndexError(f"expected tokens below {self.vocab_size}")
        network_RV = self._decoder.read(tokens_RT, rows, start).astype(np.float64)
        for tokens_T, row in zip(tokens_RT, rows, strict=True):
            self._texts[row].read(tokens_T, start)
        joined = [
            self._join(each, self._texts[row]) for each, row in zip(network_RV, rows, strict=True)
        ]
        return np.array(joined, np.float32)

    def _join(self, network: NDArray[np.float64], text: Text) -> NDArray[np.float64]:
        """`models.joint.GPTWithCounts.join` for one position."""
        back_N = self._chains.backoff(text.chain)
        p_V, came_R = self._recent(self._chains.probs(text.chain), text)
        heard_E = np.concatenate([back_N, back_N < 1, np.log1p(came_R)])
        heard_H = network[self.vocab_size :] + self._evidence_HE @ heard_E + self._evidence_bias_H
        silu_H = heard_H / (1 + np.exp(-heard_H))
        trust_1 = self._trust_1H @ silu_H + self._trust_bias_1
        return network[: self.vocab_size] + trust_1 * np.log(np.maximum(p_V, LEAST))

    def _recent(
        self, p_V: NDArray[np.float64], text: Text
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`models.recent.Recent` for one position."""
        runs_S = text.runs()
        past = (runs_S >= self._shortest).nonzero()[0]
        length = runs_S[past] - self._shortest
        # A run of so many tokens is a match of every length up to it.
        came_R = np.bincount(length, minlength=len(self._strength_R))[::-1].cumsum()[::-1]
        share_R = 1 / (came_R + self._strength_R)
        left_R = (self._strength_R * share_R)[::-1].cumprod()[::-1]
        weight_R = (share_R * np.append(left_R[1:], 1.0)).cumsum()
        handed_V = np.bincount(text.tokens[past + 1], weight_R[length], minlength=self.vocab_size)
        return left_R[0] * p_V + handed_V, came_R


def joint_weight_names(of_network: list[str]) -> list[str]:
    """The names that `models.joint.GPTWithCounts` gives its weights."""
    return [*(NETWORK + name for name in of_network), *OF_JOIN, *OF_TRUST]


class Text:
    """A text as far as it has been read: its place in the counts, and the runs that come again.

    Runs, of at most `longest` tokens, are moved on by one with each token, where the reference
    compares all positions anew.
    """

    def __init__(self, chains: Chains, context_size: int, longest: int) -> None:
        self._chains = chains
        self._longest = longest
        self._runs = np.zeros(context_size + 1, np.int64)
        self.tokens = np.zeros(context_size, np.int64)
        self.length = 0
        self.chain: Chain = Chains.BEGINNING

    def runs(self) -> NDArray[np.int64]:
        """For every position but the last, how many tokens up to it are those up to the last."""
        return self._runs[1 : self.length]

    def read(self, tokens: Sequence[int], start: int) -> None:
        """Read on from a position; what stood there before is forgotten."""
        if start != self.length:
            tokens = [*self.tokens[:start].tolist(), *tokens]
            self.length, self.chain = 0, Chains.BEGINNING
        for token in tokens:
            self.chain = self._chains.after(self.chain, token)
            # The run before the text's beginning is always 0.
            longer_S = np.minimum(self._runs[: self.length] + 1, self._longest)
            self._runs[1 : self.length + 1] = longer_S * (self.tokens[: self.length] == token)
            self.tokens[self.length] = token
            self.length += 1


def check_join(config: ModelConfig, weights: Weights, counted: NGramModel) -> None:
    """See that the weights beside the network's are those of a join with these counts.

    Raises: CheckpointError naming the first that is missing or of another shape.
    """
    V, C = counted.vocab_size, config.n_embd
    R, H = (np.size(weights.get(name, ())) for name in ("recent.log_strength", "evidence.bias"))
    expected = {
        "network.embedding.weight": (V, C), "network.logits.weight": (V, C),
        "recent.log_strength": (R,), "evidence.bias": (H,),
        "evidence.weight": (H, C + 2 * counted.order + R),
        "trust.weight": (1, H), "trust.bias": (1,),
    }  # fmt: skip
    for name, shape in expected.items():
        array = weights.get(name)
        if array is None or array.shape != shape or array.dtype != np.float32:
            found = "none" if array is None else f"{array.dtype} {list(array.shape)}"
            raise CheckpointError(
                f"the weights do not fit config.toml: {name}: expected float32 {list(shape)}, "
                f"found {found}"
            )
