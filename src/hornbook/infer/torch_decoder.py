"""A torch model as a decoder: the reference for decoding in C."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hornbook.infer.decoder import MOST_ROWS, Decoder, EachDecoder, outside
from hornbook.infer.mixing_decoder import MixingDecoder
from hornbook.infer.native_decoder import NativeDecoder
from hornbook.infer.native_mixture import NativeMixture
from hornbook.kernels import NativeUnavailableError
from hornbook.kernels.runtime import eagerly
from hornbook.models.gpt import GPT
from hornbook.models.language_model import LanguageModel
from hornbook.models.mixing import Mixing
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.stack import StackModel

if TYPE_CHECKING:
    from hornbook.models.kv_cache import KeyValueCache


def fastest_decoder(model: LanguageModel, *, rows: int = 1) -> Decoder:
    """The fastest decoder of a model's weights as they are now: in C for a GPT, else in PyTorch.

    Models with forward hooks run in PyTorch, as do subclasses, which may compute something else.
    """
    if isinstance(model, Mixing) and model.mixer_is_off:
        model = model.network
    if isinstance(model, Mixing):
        return MixingDecoder(decoder_of_network(model.network, rows=rows), model.mixer)
    return decoder_of_network(model, rows=rows)


def decoder_of_network(model: LanguageModel, *, rows: int) -> EachDecoder:
    """`fastest_decoder`, of a model without a mixer."""
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    alone = not any(getattr(part, "lora", None) for part in model.modules())
    if alone and not hooked and (type(model) is GPT or type(model) is GPTWithCounts):
        schema = model.schema if isinstance(model, GPT) else model.network.schema
        weights = {
            name: tensor.detach().float().cpu().numpy()
            for name, tensor in model.state_dict().items()
        }
        size = {"context_size": model.context_size, "rows": rows}
        try:
            if isinstance(model, GPTWithCounts):
                return NativeMixture(schema, weights, model.counts.ngram_model(), **size)
            return NativeDecoder(schema, weights, **size)
        except NativeUnavailableError:
            pass
    return TorchDecoder(model, rows=rows)


class TorchDecoder:
    """A torch model, whose weights may change between calls; see `Decoder`.

    A GPT uses a key-value cache. Other models, and all with `cached=False`, read a text again for
    each token. Rows go one after the other: together, torch would round each row differently for
    each number of rows, and a text would depend on its neighbours.
    """

    def __init__(self, model: LanguageModel, *, rows: int = MOST_ROWS, cached: bool = True) -> None:
        self.context_size = model.context_size
        self.vocab_size = model.vocab_size
        self.rows = rows
        self._model = model
        self._cached = cached
        self._caches: dict[int, KeyValueCache] = {}
        self._texts: dict[int, list[int]] = {}

    @torch.no_grad()
    def forward(
        self, tokens: Sequence[Sequence[int]], rows: Sequence[int], starts: Sequence[int]
    ) -> NDArray[np.float32]:
        """Logits after the last new token of each row, [R,V]; see `Decoder`.

        Raises: IndexError for a token, row or position outside the model, or a row named twice.
        """
        self._check(tokens, rows, starts)
        was_training = self._model.training
        if was_training:
            self._model.eval()
        try:
            with eagerly():
                logits_RV = [
                    self._forward_row(list(new), row, start)
                    for new, row, start in zip(tokens, rows, starts, strict=True)
                ]
        finally:
            if was_training:
                self._model.train()
        return torch.stack(logits_RV).float().cpu().numpy()

    def forward_each(self, tokens: Sequence[int], row: int, start: int) -> NDArray[np.float32]:
        """Logits after each new token of one row, [T,V]. Raises: IndexError as `forward`."""
        return np.concatenate(
            [self.forward([[token]], [row], [start + t]) for t, token in enumerate(tokens)]
        )

    def copy(self, source: int, row: int, length: int) -> None:
        """Make a row begin with another's first `length` positions; see `Decoder`.

        Raises: IndexError for a row outside the model, or positions that have not been read.
        """
        if not 0 <= row < self.rows or not 0 <= length <= len(self._texts.get(source, ())):
            raise outside(self, (), (source, row), (length,))
        self._texts[row] = self._texts[source][:length]
        if source in self._caches:
            self._caches[row] = self._caches[source].copy(length)

    def _forward_row(self, tokens: list[int], row: int, start: int) -> torch.Tensor:
        model = self._model
        text = self._texts.setdefault(row, [])
        text[start:] = tokens
        if self._cached and isinstance(model, StackModel | GPTWithCounts):
            if row not in self._caches:
                self._caches[row] = model.new_cache()
            self._caches[row].truncate(start)
            new = torch.tensor([tokens], device=model.device)
            return model.next_logits(new, self._caches[row])[0]
        return model.next_logits(torch.tensor([text], device=model.device))[0]

    def _check(
        self, tokens: Sequence[Sequence[int]], rows: Sequence[int], starts: Sequence[int]
    ) -> None:
        fits = len(tokens) == len(rows) == len(starts) == len(set(rows))
        if not fits or not all(
            0 <= row < self.rows
            and 0 <= start <= len(self._texts.get(row, ()))
            and 0 < len(new) <= self.context_size - start
            and min(new) >= 0
            and max(new) < self.vocab_size
            for new, row, start in zip(tokens, rows, starts, strict=True)
        ):
            raise outside(self, tokens, rows, starts)
