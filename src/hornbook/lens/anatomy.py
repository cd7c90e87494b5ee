"""The parts of a network that can be seen: heads, MLPs and the residual stream, by name.

The names are those of TransformerLens, with the batch dimension removed. `ln1`, `ln2` and
`ln_final.hook_normalized` are what the next part reads: the learned gain is in it.

Shapes in names: T time, C n_embd, H heads, D head width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hornbook.lens.tape import Tape

Activations: TypeAlias = dict[str, Tensor]
Part = TypeVar("Part", bound=nn.Module)


class Anatomy(ABC):
    """The parts of a model. Each of its layers has `n_head` heads and at most one MLP.

    `head` turns the last residual, normalised by `norm`, into logits.
    """

    n_layer = n_head = 0

    def __init__(self, norm: nn.Module, head: nn.Module) -> None:
        self.norm, self.head = norm, head

    @abstractmethod
    def parts(self) -> list[nn.Module]:
        """The modules that `activations` reads."""

    @abstractmethod
    def activations(self, tape: Tape) -> Activations:
        """Everything seen in a pass, by its name in TransformerLens."""

    @abstractmethod
    def writes(self, seen: Activations) -> dict[str, Tensor]:
        """What each component adds to the last residual: [T,C] each; they sum to it."""

    def without_head(self, layer: int, head: int) -> RemovableHandle:
        """A hook that makes one head's result zero."""
        raise NotImplementedError  # `without` refuses heads that a model does not have

    def mlps(self) -> list[nn.Module]:
        """The MLP of each layer, or none."""
        return []


def zeros(_part: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    """A forward hook that makes a result zero."""
    return torch.zeros_like(output)


def zeros_at(places: slice) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """A hook that makes some channels of a part's first argument zero."""

    def hook(_part: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0].clone()
        x[..., places] = 0
        return x, *inputs[1:]

    return hook


def of_kind(kind: type[Part], parts: nn.Module) -> list[Part]:
    """The children of a module that are of a class, in order."""
    return [part for part in parts.children() if isinstance(part, kind)]


def results(z_THD: Tensor, output_CC: Tensor) -> Tensor:
    """What each head adds to the residual stream: [T,H,D], [C,H*D] -> [T,H,C]."""
    return torch.einsum("thd,chd->thc", z_THD, output_CC.unflatten(1, z_THD.shape[1:]))


def stack_writes(seen: Activations, n_layer: int) -> dict[str, Tensor]:
    """What the heads and MLPs of a stack of blocks add to the residual stream: [T,C] each."""
    found = {}
    for layer in range(n_layer):
        at = f"blocks.{layer}"
        result_THC = seen[f"{at}.attn.hook_result"]
        for head in range(result_THC.size(1)):
            found[f"{at}.attn.head.{head}"] = result_THC[:, head]
        if f"{at}.attn.bias" in seen:
            found[f"{at}.attn.bias"] = seen[f"{at}.attn.bias"]
        found[f"{at}.mlp"] = seen[f"{at}.hook_mlp_out"]
    return found
