"""LoRA: beside each frozen matrix of the blocks, a product of two narrow ones is trained.

Source: Hu et al. 2021, arXiv:2106.09685.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.models.gpt import Linear
from hornbook.models.language_model import LanguageModel
from hornbook.models.stack import StackModel

# What the paper calls alpha / r.
SCALE = 2.0


class LowRank(nn.Module):
    """A product through `rank` channels, which starts at zero: [..., I] -> [..., O]."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.uniform_(self.down, -((3 / inputs) ** 0.5), (3 / inputs) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        inside = F.linear(x, self.down.to(x.dtype))
        return SCALE * F.linear(inside, self.up.to(x.dtype))


def adapt(model: StackModel, rank: int) -> None:
    """Freeze a model, and give every matrix of its blocks factors that are trained instead."""
    model.requires_grad_(requires_grad=False)
    for part in model.blocks.modules():
        if isinstance(part, Linear):
            part.lora = LowRank(part.in_features, part.out_features, rank)


@torch.no_grad()
def merge(model: LanguageModel) -> None:
    """Add each product to the matrix that it stands beside: the same function without factors."""
    for part in model.modules():
        if isinstance(part, Linear) and isinstance(part.lora, LowRank):
            part.weight += SCALE * part.lora.up @ part.lora.down
            part.lora = None
    model.requires_grad_(requires_grad=True)
