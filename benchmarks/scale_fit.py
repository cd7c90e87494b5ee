"""Where the constants of scale/estimate.py come from.

    python -m benchmarks.scale_fit       # fitted to mpt.csv; and what a block keeps, half a minute

Speed: least squares over the 146 runs of mpt.csv, for the relative error of the time of a token.
Memory: the tensors that a block saves for its backward pass, with the fused attention of a GPU.
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.scale import Published, mpt_runs
from hornbook.config import ModelConfig
from hornbook.models import gpt
from hornbook.scale import GPUS
from hornbook.scale.estimate import LINK_SHARE

EXPOSED = (0.0, 0.25, 0.5, 0.75, 1.0)


def costs(run: Published) -> tuple[NDArray[np.float64], float]:
    """Seconds a token and GPU of each kind of work at its ceiling, and of communication."""
    gpu, schema = GPUS[run.gpu], run.schema
    blocks = 6 * schema.n_layer * schema.block_matrix_parameters
    products = blocks + 6 * schema.vocab_size * schema.n_embd
    attended = (schema.training_flops(run.block_size) - products) / 2
    again = 4 / 3 if run.recompute else 1.0
    work = [
        (products + (again - 1) * blocks) / gpu.product_flops,
        again * attended / gpu.product_flops,
        again * 2 * schema.n_layer * schema.n_embd / gpu.memory_bytes_per_second,
        2 * schema.vocab_size / gpu.memory_bytes_per_second,
    ]
    inside = run.gpus <= gpu.per_machine
    link = gpu.link_bytes_per_second if inside else gpu.network_bytes_per_second
    sent = 8 * schema.parameters * (1 - 1 / run.gpus) / (LINK_SHARE * link)
    return np.array(work), sent / (run.blocks_a_pass * run.block_size)


def fitted(exposed: float) -> tuple[NDArray[np.float64], float, float]:
    """The four constants for a part of communication that is waited for; mean and largest error."""
    found = mpt_runs()
    seconds = np.array([run.gpus / run.tokens_per_second for run in found])
    work, sent = (np.array(each) for each in zip(*map(costs, found), strict=True))
    rest = 1 - exposed * sent / seconds
    constants = np.linalg.lstsq(work / seconds[:, None], rest, rcond=None)[0]
    off = np.abs(work @ constants / seconds - rest)
    return constants, float(off.mean()), float(off.max())


def fused(q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    """What `gpt.attention` is on a GPU."""
    del window
    return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def kept(*, compiled: bool) -> tuple[float, float]:
    """Bytes of a token that a block of 768 channels keeps, per channel: inside, and of its MLP."""
    config = ModelConfig(n_layer=1, n_embd=768, n_head=12, block_size=256)
    model = gpt.GPT(config, vocab_size=100)
    block, width, tokens = model.blocks[0], config.n_embd, 2 * 256
    cos_TD, sin_TD = gpt.rotary_angles(torch.arange(256), 64, 10_000.0)
    x_BTC = torch.randn(2, 256, width, dtype=torch.bfloat16, requires_grad=True)
    run: Callable[..., Tensor] = torch.compile(block) if compiled else block
    saved: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = run(x_BTC, cos_TD, sin_TD)
    del result
    sizes = [
        (each.numel() / tokens, each.untyped_storage().nbytes() / tokens)
        for each in saved.values()
        if each.numel() in (tokens * width, tokens * model.schema.mlp_width)
        and tokens in (each.shape[0], each.shape[0] * each.shape[-2], each.shape[0] * each.shape[1])
    ]
    inside = sum(size for channels, size in sizes if channels == width) / width
    mlp = sum(size for channels, size in sizes if channels != width) / model.schema.mlp_width
    return inside, mlp


def main() -> None:
    """Print both."""
    for exposed in EXPOSED:
        (products, attention, channel, entry), mean, largest = fitted(exposed)
        sys.stdout.write(
            f"communication waited for {exposed:.0%}: products {1 / products:.3f}, attention "
            f"{1 / attention:.3f}, {channel:.0f} a channel, {entry:.1f} an entry; the time is off "
            f"by {mean:.1%} in the mean, {largest:.1%} at most\n"
        )
    # As on a GPU; this file is a program of its own, and nothing else sees it.
    gpt.attention = fused
    for compiled in (False, True):
        inside, mlp = kept(compiled=compiled)
        sys.stdout.write(
            f"{'compiled' if compiled else 'not compiled'}: {inside:.1f} bytes a channel and "
            f"{mlp:.1f} a channel of the MLP\n"
        )


if __name__ == "__main__":
    main()
