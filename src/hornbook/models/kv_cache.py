"""The key-value cache: every layer's keys and values of the tokens read so far."""

from copy import deepcopy
from typing import Self

import torch
from torch import Tensor


class LayerCache:
    """One layer's keys and values, in buffers as long as the context."""

    def __init__(
        self, shape_BHSD: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.keys_BHSD = torch.zeros(shape_BHSD, device=device, dtype=dtype)
        self.values_BHSD = torch.zeros(shape_BHSD, device=device, dtype=dtype)
        self.length = 0

    def extend(self, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Append T positions; the keys and values of all S = length + T positions."""
        start, self.length = self.length, self.length + k_BHTD.size(2)
        self.keys_BHSD[:, :, start : self.length] = k_BHTD
        self.values_BHSD[:, :, start : self.length] = v_BHTD
        return self.keys_BHSD[:, :, : self.length], self.values_BHSD[:, :, : self.length]


class KeyValueCache:
    """All layers' caches, of which `length` positions are filled, at most the context size."""

    def __init__(
        self,
        n_layer: int,
        shape_BHSD: tuple[int, int, int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.layers = [LayerCache(shape_BHSD, device, dtype) for _ in range(n_layer)]
        self.text_BT: Tensor | None = None

    @property
    def length(self) -> int:
        """Positions filled so far."""
        return self.layers[0].length

    def remember(self, idx_BT: Tensor) -> Tensor:
        """Append tokens for the n-grams, which read all of them again; all tokens so far."""
        self.text_BT = idx_BT if self.text_BT is None else torch.cat((self.text_BT, idx_BT), dim=1)
        return self.text_BT

    def truncate(self, length: int) -> None:
        """Forget all positions from `length` on; the buffers are kept."""
        if self.text_BT is not None:
            self.text_BT = self.text_BT[:, :length] if length else None
        for layer in self.layers:
            layer.length = min(layer.length, length)

    def copy(self, length: int) -> Self:
        """A cache of the first `length` positions, whose buffers are its own."""
        copied = deepcopy(self)
        copied.truncate(length)
        return copied
