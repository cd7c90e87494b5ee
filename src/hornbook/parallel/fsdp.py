"""Weights that are spread over ranks: PyTorch's FSDP2, applied from outside the model.

A rank has some rows of every weight, gradient and optimizer state. FSDP gathers a block's weights
before its pass, forward and backward, frees them after it, and sends each rank its rows of the sum
of the gradients; it asks for the next block in the backward pass while one is computed.
Source: torch.distributed.fsdp.fully_shard, Zhao et al. 2023, arXiv:2304.11277.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from hornbook.parallel.group import Group


def spread(root: nn.Module, blocks: Sequence[nn.Module], group: Group, dtype: torch.dtype) -> None:
    """Leave each rank its rows of all parameters, of which all ranks have the same.

    Blocks are gathered in `dtype`, that of their products, and everything else in float32; the sum
    over ranks is in float32. A pass begins with a call of `root`.
    """
    device = next(root.parameters()).device.type
    ranks: Any = group.steps_group
    mesh = DeviceMesh.from_group(ranks, device)
    # A model casts its own inputs: angles and n-grams stay float32.
    inside = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=inside)
    fully_shard(root, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    for part in root.modules():
        if isinstance(part, FSDPModule):
            # Each rank has weighted its loss by its share of the batch: gradients are added.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
