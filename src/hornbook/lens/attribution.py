"""Direct logit attribution: how much each part of a network adds to a token's logit.

Everything from the last residual to the logits is linear, except for the scale by which the last
norm divides. With that scale taken as it is, the contributions add up to the logit.
Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".

Shapes in names: T time, C channels of the residual stream.
"""

import torch
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
    last_TC, norm, head = last_TC.double(), anatomy.norm, anatomy.head
    # For each position the direction in the residual stream that the token's logit measures.
    if isinstance(head, nn.Linear):
        to_TC = head.weight.detach()[targets_T].double()
        bias = head.bias
        bias_T = last_TC.new_zeros(len(last_TC)) if bias is None else bias.detach()[targets_T]
    else:
        to_TC = F.one_hot(targets_T, last_TC.size(1)).double()
        bias_T = last_TC.new_zeros(len(last_TC))
    if isinstance(norm, RMSNorm):
        scale_T1 = (last_TC.square().mean(-1, keepdim=True) + norm.epsilon).sqrt()
        to_TC = to_TC * norm.weight.detach() / scale_T1
    elif isinstance(norm, nn.LayerNorm):
        scale_T1 = (last_TC.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
        bias_T = bias_T + (to_TC * norm.bias.detach()).sum(-1)
        to_TC = to_TC * norm.weight.detach() / scale_T1
        # The norm subtracts the mean of what it reads; the same is to measure what is centred.
        to_TC = to_TC - to_TC.mean(-1, keepdim=True)
    found = {name: (write_TC.double() * to_TC).sum(-1) for name, write_TC in writes.items()}
    if torch.any(bias_T != 0):
        found["bias"] = bias_T.double()
    return found
