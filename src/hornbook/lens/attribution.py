"""Direct logit attribution: how much each part of a network adds to a token's logit.

Everything from the last residual to the logits is linear, except for the scale by which the last
norm divides. With that scale taken as it is, the contributions add up to the logit.
Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".

Shapes in names: T time, C channels of the residual stream.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.lens.anatomy import Anatomy
from hornbook.models.gpt import RMSNorm


def attribute(
    writes: dict[str, Tensor], last_TC: Tensor, anatomy: Anatomy, targets_T: Tensor
) -> dict[str, Tensor]:
    """What each component adds to the logit of a token at each position: [T] each, in float64.

    `writes` sum to `last_TC`, the last residual. What biases add is "bias".
    """
    norm, head = anatomy.norm, anatomy.head
    last_TC, targets_T = exact(last_TC), targets_T.cpu()
    bias_T = last_TC.new_zeros(len(last_TC))
    # For each position the direction in the residual stream that the token's logit measures.
    if isinstance(head, nn.Linear):
        to_TC = exact(head.weight)[targets_T]
        bias_T = bias_T if head.bias is None else exact(head.bias)[targets_T]
    else:
        to_TC = F.one_hot(targets_T, last_TC.size(1)).double()
    if isinstance(norm, RMSNorm):
        scale_T1 = (last_TC.square().mean(-1, keepdim=True) + norm.epsilon).sqrt()
        to_TC = to_TC * exact(norm.weight) / scale_T1
    elif isinstance(norm, nn.LayerNorm):
        scale_T1 = (last_TC.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
        bias_T = bias_T + (to_TC * exact(norm.bias)).sum(-1)
        to_TC = to_TC * exact(norm.weight) / scale_T1
        # The norm subtracts the mean of what it reads; the same is to measure what is centred.
        to_TC = to_TC - to_TC.mean(-1, keepdim=True)
    found = {name: (exact(write_TC) * to_TC).sum(-1) for name, write_TC in writes.items()}
    return found | {"bias": bias_T} if bias_T.any() else found


def exact(tensor: Tensor) -> Tensor:
    """A tensor in float64, on a CPU: some other devices have no such numbers."""
    return tensor.detach().cpu().double()
