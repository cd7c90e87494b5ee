"""What the parts of a model are given, and what they return, in one forward pass."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hornbook.kernels.runtime import eagerly
from hornbook.models.language_model import LanguageModel


class Tape:
    """The arguments and results of modules in a pass over one text; a module is run once."""

    def __init__(self) -> None:
        self.inputs: dict[nn.Module, tuple[Any, ...]] = {}
        self.outputs: dict[nn.Module, Any] = {}

    def keep(self, part: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        """Record one call; a forward hook."""
        self.inputs[part], self.outputs[part] = inputs, output

    def given(self, part: nn.Module) -> Tensor:
        """The first argument of a part, without the batch dimension, float32."""
        return self.inputs[part][0][0].float()

    def made(self, part: nn.Module) -> Tensor:
        """The result of a part, without the batch dimension, float32."""
        return self.outputs[part][0].float()


@torch.no_grad()
def record(model: LanguageModel, parts: Iterable[nn.Module], idx_T: Tensor) -> tuple[Tensor, Tape]:
    """The logits after each token of a text, and what the parts did.

    The pass is that of the exact loss. Hooks and modes are as before afterwards.
    Shapes: [T] -> [T,V].
    """
    tape = Tape()
    handles = [part.register_forward_hook(tape.keep) for part in parts]
    modes = [(part, part.training) for part in model.modules()]
    try:
        model.eval()
        with eagerly():
            logits_BTV, _ = model(idx_T[None])
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in modes:
            part.training = mode
    return logits_BTV[0].float(), tape
