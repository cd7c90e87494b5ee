"""A language model whose probabilities a context mixer corrects, from all that it has read.

Shapes in names: B batch, T time, V vocabulary.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hornbook.language import msg
from hornbook.models.language_model import LanguageModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hornbook.models.first_pass import FirstPass
    from hornbook.models.mixer import Floats, Ids, Mixer, Reader

Array = TypeVar("Array", bound=NDArray[np.floating[Any]])

# Logits held at once, in learning: 32 MB.
MOST_LOGITS = 2**23


class Mixing(LanguageModel):
    """A network's probabilities as one input of a mixer, which goes on learning in the context.

    A text is read from its beginning, and what the mixer learns of it is forgotten after it: the
    same tokens have the same probabilities, whatever was read before. The mixer is no part of the
    state dict: its tables follow from the text and the network.
    """

    def __init__(self, network: LanguageModel, mixer: Mixer) -> None:
        super().__init__(network.vocab_size, network.block_size, network.context_size)
        self.network = network
        self.mixer = mixer
        # Off for a what-if: the network predicts alone.
        self.mixer_is_off = False
        self._readers: list[Reader] = []

    @classmethod
    def learn(cls, network: LanguageModel, first: FirstPass) -> Self:
        """The mixer of a text that was read but for its end, where it learns to trust the network.

        The network must not have been trained on that end: it would be trusted too far.
        Raises: NativeUnavailableError without a C compiler; DataError for too many tokens.
        """
        mixer, reader = first.finish()
        mixer.join_network()
        for piece, logits_TV in network_logits(network, first.tokens, first.begin):
            reader.read(piece, logits_TV)
        return cls(network, replace(mixer, text=np.array(first.tokens, np.int32)))

    @property
    def summary(self) -> str:
        """Both in one line."""
        return msg("{first}, and {second}", first=self.network.summary, second=self.mixer.summary)

    def forward(
        self, idx_BT: Tensor, targets_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """All probabilities at every position; `token_losses` has those of the text's tokens."""
        if self.mixer_is_off:
            return self.network(idx_BT, targets_BT)
        logits_BTV, _ = self.network(idx_BT)
        logits = logits_BTV.detach().float().cpu().numpy()

        def mixed(row: int, reader: Reader) -> NDArray[np.float32]:
            reader.reset()
            found = []
            for t, token in enumerate(idx_BT[row].cpu().numpy()):
                reader.read(token[None], logits[row, t - 1 : t] if t else None)
                found.append(reader.log_probs(logits[row, t]))
            return np.array(found)

        rows = self._each_row(mixed, len(logits))
        return self.logits_and_loss(torch.from_numpy(np.stack(rows)).to(idx_BT.device), targets_BT)

    @torch.no_grad()
    def token_losses(self, idx_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """-ln p of each target, in nats; targets are the inputs' successors: [B,T] -> [B,T]."""
        if self.mixer_is_off:
            return self.network.token_losses(idx_BT, targets_BT)
        logits_BTV, _ = self.network(idx_BT)
        logits = logits_BTV.float().cpu().numpy()
        first, targets = idx_BT[:, :1].cpu().numpy(), targets_BT.cpu().numpy()

        def read(row: int, reader: Reader) -> NDArray[np.float64]:
            reader.reset()
            reader.read(first[row])
            return reader.read(targets[row], logits[row])

        return torch.from_numpy(np.stack(self._each_row(read, len(logits)))).to(idx_BT.device)

    def _each_row(self, read: Callable[[int, Reader], Array], n_rows: int) -> list[Array]:
        while len(self._readers) < n_rows:
            self._readers.append(self.mixer.reader())
        with ThreadPoolExecutor(max(1, min(n_rows, torch.get_num_threads()))) as pool:
            return list(pool.map(read, range(n_rows), self._readers))


def network_logits(network: LanguageModel, tokens: Ids, begin: int) -> Iterator[tuple[Ids, Floats]]:
    """From `begin` on, pieces of a text with the network's logits before each of their tokens.

    Every position but the text's first few sees half of the context size at least.
    """
    size = network.context_size
    stride = max(1, min(size // 2, MOST_LOGITS // network.vocab_size))
    for start in range(begin, len(tokens), stride):
        end = min(start + stride, len(tokens))
        first = max(0, end - size - 1)
        window = torch.from_numpy(np.asarray(tokens[first : end - 1], np.int64))[None]
        with torch.no_grad():
            logits_BTV, _ = network(window.to(network.device))
        yield tokens[start:end], logits_BTV[0, start - first - 1 :].float().cpu().numpy()
