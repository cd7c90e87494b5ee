"""A torch model as a reader of texts: the reference that decoding in C is held to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hornbook.kernels import Decoder, JointDecoder, NativeUnavailableError
from hornbook.kernels.runtime import eagerly
from hornbook.models.gpt import GPT
from hornbook.models.mixture import GPTWithCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from hornbook.models.kv_cache import KeyValueCache
    from hornbook.models.language_model import LanguageModel


def snapshot(model: LanguageModel) -> Decoder | JointDecoder | ModelReader:
    """The fastest reader of a model as it is now: a GPT's weights copied for C where that is here.

    Only for a model that nobody has taken apart: changes to its parts, which torch would follow,
    are not in its weights. Hooks keep it with torch.
    """
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    # Not isinstance: a subclass may compute something else.
    if not hooked and (type(model) is GPT or type(model) is GPTWithCounts):
        weights = {
            name: tensor.detach().float().cpu().numpy()
            for name, tensor in model.state_dict().items()
        }
        try:
            if isinstance(model, GPTWithCounts):
                return JointDecoder(model.network.config, weights, model.counts.ngram_model())
            return Decoder(model.config, weights)
        except NativeUnavailableError:
            pass
    return ModelReader(model)


class ModelReader:
    """Reads texts with a model as it is at that moment; see `hornbook.generate.Reader`.

    A GPT keeps keys and values; other rungs, and all with `cached=False`, reread the text each
    time. Rows are read one after the other: side by side, torch would round each row differently
    for each number of rows, and a text would depend on its neighbours.
    """

    def __init__(self, model: LanguageModel, *, cached: bool = True) -> None:
        self.context_size = model.context_size
        self._model = model
        self._cached = cached
        self._caches: dict[int, KeyValueCache] = {}
        self._texts: dict[int, list[int]] = {}

    @torch.no_grad()
    def read(
        self, tokens_RT: Sequence[Sequence[int]], rows: Sequence[int], start: int = 0
    ) -> NDArray[np.float32]:
        """Read on from position `start` of each row: the logits after the last token, [R,V]."""
        was_training = self._model.training
        if was_training:
            self._model.eval()
        try:
            with eagerly():
                logits_RV = [
                    self._read_row(tokens_T, row, start)
                    for tokens_T, row in zip(tokens_RT, rows, strict=True)
                ]
        finally:
            if was_training:
                self._model.train()
        return torch.stack(logits_RV).float().cpu().numpy()

    def _read_row(self, tokens_T: Sequence[int], row: int, start: int) -> torch.Tensor:
        model = self._model
        device = model.device
        if self._cached and isinstance(model, GPT | GPTWithCounts):
            cache = self._caches.setdefault(row, model.new_cache())
            if start == 0:
                cache.clear()
            return model.next_logits(torch.tensor([list(tokens_T)], device=device), cache)[0]
        self._texts[row] = text = [*self._texts.get(row, [])[:start], *tokens_T]
        return model.next_logits(torch.tensor([text], device=device))[0]
