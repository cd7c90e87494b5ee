"""A run on paper, for GPUs that are not here: memory, communication, speed, time and cost.

Importing this does not import torch.
"""

from hornbook.scale.estimate import Estimate, Run, estimate, fewest_gpus
from hornbook.scale.gpus import GPU, GPUS
from hornbook.scale.sizes import sized

__all__ = ["GPU", "GPUS", "Estimate", "Run", "estimate", "fewest_gpus", "sized"]
