"""GPT: the flagship, a decoder-only transformer with today's block, and nothing hidden.

The mathematics is Qwen3's (Qwen Team 2025, arXiv:2505.09388) exactly, so that a model trained here
runs wherever Qwen3 runs: RMSNorm before each half, rotary positions, normalised queries and keys, a
gated SiLU MLP, no biases.

Shapes in names: B batch, T time, C n_embd, H heads, D head width, F MLP width, V vocabulary; S is
the number of positions attended to (S = T unless a cache holds earlier ones).
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.config import ModelConfig
from hornbook.kernels import training
from hornbook.models.kv_cache import KeyValueCache, LayerCache
from hornbook.models.language_model import has_hooks
from hornbook.models.schema import RotaryScaling, Schema
from hornbook.models.stack import StackModel


def rotary_angles(
    positions_T: Tensor, head_width: int, base: float, scaling: RotaryScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's rotation, float32.

    Shapes: [T] -> two of [T,D], each half of D repeating the same D/2 frequencies.
    Source: Su et al. 2021, arXiv:2104.09864, in the half-split layout of GPT-NeoX and Qwen.
    """
    exponents = torch.arange(0, head_width, 2, device=positions_T.device) / head_width
    frequencies = base**-exponents if scaling is None else scaling.slowed(base**-exponents)
    angles_TD = torch.outer(positions_T.float(), frequencies).repeat(1, 2)
    return angles_TD.cos(), angles_TD.sin()


def rotate(x_BHTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Turn each pair (i, i + D/2) of every head by its position's angle."""
    first, second = x_BHTD.chunk(2, dim=-1)
    return x_BHTD * cos_TD + torch.cat((-second, first), dim=-1) * sin_TD


def attention_reference(
    q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, window: int | None = None
) -> Tensor:
    """Causal attention as the formula has it, in float32: the reference for every faster form.

    Each position attends to itself and all before it; with a `window` only to that many, itself
    counted.
    Shapes: [B,H,T,D], [B,H,S,D], [B,H,S,D] -> [B,H,T,D]; queries are the last T of S positions.
    Sources: Vaswani et al. 2017, arXiv:1706.03762, equation 1; Beltagy et al. 2020,
    arXiv:2004.05150 (the window).
    """
    T, S = q_BHTD.size(-2), k_BHSD.size(-2)
    scores_BHTS = q_BHTD.float() @ k_BHSD.float().transpose(-2, -1) / q_BHTD.size(-1) ** 0.5
    visible_TS = visible(T, S, window, q_BHTD.device)
    weights_BHTS = scores_BHTS.masked_fill(~visible_TS, float("-inf")).softmax(dim=-1)
    return (weights_BHTS @ v_BHSD.float()).to(q_BHTD.dtype)


def visible(T: int, S: int, window: int | None, device: torch.device) -> Tensor:
    """Which of S positions each of the last T attends to: [T,S]."""
    visible_TS = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
    return visible_TS if window is None else visible_TS.triu(S - T - window + 1)


def attention(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, window: int | None = None) -> Tensor:
    """`attention_reference` by the fastest form on this device; same shapes.

    On a CPU that is two products and a softmax: their bfloat16 backward pass runs at 73-83 GFLOP/s
    on two cores, and that of PyTorch's fused kernel at 25. On a GPU the fused kernel is faster.
    """
    T, S = q_BHTD.size(-2), k_BHSD.size(-2)
    if window is not None and window < T == S:
        return in_windows(q_BHTD, k_BHSD, v_BHSD, window)
    if window is not None and T + window - 1 < S:
        seen = slice(S - T - window + 1, S)
        return attention(q_BHTD, k_BHSD[:, :, seen], v_BHSD[:, :, seen], window)
    if q_BHTD.device.type != "cpu" and (window is None or window >= S):
        return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, is_causal=T == S and T > 1)
    return plain_attention(q_BHTD, k_BHSD, v_BHSD, visible(T, S, window, q_BHTD.device))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, visible_TS: Tensor) -> Tensor:
    """Two products and a softmax between them, over the visible positions.

    The softmax keeps its result in the activations' precision. Forward that gives the bits of a
    float32 softmax, rounded; gradients are 0.7% off float32's instead of 0.64%, in 57% of the time.
    """
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(-2, -1)
    scores.masked_fill_(~visible_TS, float("-inf"))
    return scores.softmax(dim=-1) @ v


def in_windows(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, window: int) -> Tensor:
    """Windowed attention in chunks of a window: each attends to itself and the one before it.

    A position costs two windows of work instead of the whole text's.
    """
    B, H, T, D = q_BHTD.shape
    W = window
    spare = -T % W

    def pairs(x_BHTD: Tensor) -> Tensor:
        padded = F.pad(x_BHTD, (0, 0, W, spare))
        return padded.unfold(2, 2 * W, W).transpose(-2, -1)

    q = F.pad(q_BHTD, (0, 0, 0, spare)).view(B, H, -1, W, D)
    chunk = torch.arange(q.size(2), device=q.device)
    key = torch.arange(2 * W, device=q.device)
    # In the first chunk the one before is padding.
    seen = visible(W, 2 * W, window, q.device) & ((chunk > 0)[:, None, None] | (key >= W))
    y = plain_attention(q, pairs(k_BHTD), pairs(v_BHTD), seen)
    return y.reshape(B, H, T + spare, D)[:, :, :T]


class Linear(nn.Linear):
    """A product in the activations' precision, with float32 master weights.

    `lora` adds a product of two factors, where that alone is trained (see `lora.adapt`).
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.lora: nn.Module | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        bias = None if self.bias is None else self.bias.to(input.dtype)
        y = F.linear(input, self.weight.to(input.dtype), bias)
        return y if self.lora is None else y + self.lora(input)


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last dimension, then scale by a learned gain.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        # FSDP gathers a block's weights in the run's precision; any other gain is float32 already.
        gain = self.weight.float()
        return F.rms_norm(x.float(), gain.shape, gain, self.epsilon).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention with rotary positions. [B,T,C] -> [B,T,C]."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.n_head, self.n_kv_head = schema.n_head, schema.n_kv_head
        self.head_width, self.window = schema.head_width, schema.window
        queries, keys = self.n_head * self.head_width, self.n_kv_head * self.head_width
        self.query = Linear(schema.n_embd, queries)
        self.key = Linear(schema.n_embd, keys)
        self.value = Linear(schema.n_embd, keys)
        self.output = Linear(queries, schema.n_embd)
        if schema.query_key_norm:
            self.query_norm: nn.Module = RMSNorm(self.head_width, schema.epsilon)
            self.key_norm: nn.Module = RMSNorm(self.head_width, schema.epsilon)
        else:
            self.query_norm, self.key_norm = nn.Identity(), nn.Identity()

    def forward(
        self, x_BTC: Tensor, cos_TD: Tensor, sin_TD: Tensor, cache: LayerCache | None = None
    ) -> Tensor:
        heads = (*x_BTC.shape[:2], -1, self.head_width)
        q_BHTD = self.query_norm(self.query(x_BTC).view(heads)).transpose(1, 2)
        k_BHSD = self.key_norm(self.key(x_BTC).view(heads)).transpose(1, 2)
        v_BHSD = self.value(x_BTC).view(heads).transpose(1, 2)
        cos_TD, sin_TD = cos_TD.to(x_BTC.dtype), sin_TD.to(x_BTC.dtype)
        q_BHTD, k_BHSD = rotate(q_BHTD, cos_TD, sin_TD), rotate(k_BHSD, cos_TD, sin_TD)
        if cache is not None:
            k_BHSD, v_BHSD = cache.extend(k_BHSD, v_BHSD)
        if self.n_kv_head != self.n_head:  # grouped-query attention
            groups = self.n_head // self.n_kv_head
            k_BHSD, v_BHSD = (each.repeat_interleave(groups, 1) for each in (k_BHSD, v_BHSD))
        y_BHTD = attention(q_BHTD, k_BHSD, v_BHSD, self.window)
        return self.output(y_BHTD.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """A gated SiLU layer (SwiGLU), at every position alone. [B,T,C] -> [B,T,C].

    Source: Shazeer 2020, arXiv:2002.05202.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.gate = Linear(schema.n_embd, schema.mlp_width)
        self.up = Linear(schema.n_embd, schema.mlp_width)
        self.down = Linear(schema.mlp_width, schema.n_embd)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTC)) * self.up(x_BTC))


def random_bytes(*shape: int, device: torch.device) -> Tensor:
    """Uniform bytes, int8, drawn eight at a time.

    On a CPU torch draws one number after the other: 0.5 million bytes take 0.25 ms on one core, its
    own dropout mask of as many places 3.1 ms, and compiled 12.
    """
    count = math.prod(shape)
    words = torch.randint(-(2**63), 2**63 - 1, (-(-count // 8),), device=device)
    return words.view(torch.int8)[:count].view(shape)


def drop(x: Tensor, mask: Tensor, rate: float) -> Tensor:
    """Dropout where the mask's byte falls below `rate` (to the nearest 1/256); the rest scaled up.

    Source: Srivastava et al. 2014.
    """
    threshold = round(256 * rate)
    # As floats, which the compiler vectorises: 0.2 ms for 0.5 million places, as bytes 2.3.
    kept = (mask.float() >= threshold - 128).to(x.dtype)
    return x * kept * (256 / (256 - threshold))


def sizes_of(schema: Schema) -> training.Sizes:
    """The sizes of a block, as the C kernels take them."""
    return training.Sizes(
        width=schema.n_embd, n_head=schema.n_head, n_kv_head=schema.n_kv_head,
        head_width=schema.head_width, mlp_width=schema.mlp_width, epsilon=schema.epsilon,
        norms=schema.query_key_norm,
    )  # fmt: skip


class Block(nn.Module):
    """Attention, then an MLP; each reads a normalised copy and adds to the residual stream.

    With `kernels` a training pass runs in C; everything else runs in PyTorch, the reference.
    `mask` [2,B,T,C], random bytes, decides what dropout zeroes in what the two halves add.
    """

    def __init__(self, schema: Schema, dropout: float = 0.0) -> None:
        super().__init__()
        self.schema, self.sizes, self.dropout = schema, sizes_of(schema), dropout
        self.attention_norm = RMSNorm(schema.n_embd, schema.epsilon)
        self.attention = Attention(schema)
        self.mlp_norm = RMSNorm(schema.n_embd, schema.epsilon)
        self.mlp = MLP(schema)
        self.kernels: training.TrainingKernels | None = None

    def forward(
        self,
        x_BTC: Tensor,
        cos_TD: Tensor,
        sin_TD: Tensor,
        cache: LayerCache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        if self.kernels and cache is None and self.fits_kernels(x_BTC):
            operands = training.Operands(
                self.kernels, self.sizes, cos_TD, sin_TD, mask, self.dropout
            )
            return training.block(x_BTC, list(self.parameters()), operands)
        y_BTC = self.attention(self.attention_norm(x_BTC), cos_TD, sin_TD, cache)
        x_BTC = x_BTC + (y_BTC if mask is None else drop(y_BTC, mask[0], self.dropout))
        y_BTC = self.mlp(self.mlp_norm(x_BTC))
        return x_BTC + (y_BTC if mask is None else drop(y_BTC, mask[1], self.dropout))

    def fits_kernels(self, x_BTC: Tensor) -> bool:
        """Whether the C kernels run this pass: training all weights, in the window, no hooks."""
        windowed = self.schema.window is not None and x_BTC.size(1) > self.schema.window
        whole = torch.is_grad_enabled() and self.mlp.down.lora is None
        return whole and not windowed and not has_hooks(self)


class GPT(StackModel):
    """A stack of blocks between an embedding table and a table of logits.

    It is trained on blocks of `block_size` tokens, and reads longer texts through windows of that
    width: a layer attends no further back than in training, but to positions that themselves
    attended further back. `schema` replaces the shape that `config` describes.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, schema: Schema | None = None) -> None:
        super().__init__(vocab_size, config.block_size, config.context_size)
        self.config = config
        self.schema = schema = schema or Schema.of(config, vocab_size)
        self.embedding = nn.Embedding(vocab_size, schema.n_embd)
        self.blocks = nn.ModuleList(Block(schema, config.dropout) for _ in range(schema.n_layer))
        self.norm = RMSNorm(schema.n_embd, schema.epsilon)
        self.logits = Linear(schema.n_embd, vocab_size)
        if schema.tied:
            self.logits.weight = self.embedding.weight
        self.initialize()

    def initialize(self) -> None:
        """Start near the uniform guess: the loss of a freshly initialised model is ln(vocab_size).

        The last product of each half starts at zero, so that every block starts as the identity.
        """
        bound = (3 / self.schema.n_embd) ** 0.5
        nn.init.normal_(self.embedding.weight, std=0.02 if self.schema.tied else 1.0)
        if not self.schema.tied:
            nn.init.zeros_(self.logits.weight)
        for block in self.blocks:
            for name, weight in block.named_parameters():
                if name in ("attention.output.weight", "mlp.down.weight"):
                    nn.init.zeros_(weight)
                elif weight.ndim == 2:
                    nn.init.uniform_(weight, -bound, bound)

    @property
    def cache_shape(self) -> tuple[int, int]:
        """Key-value heads and the width of each."""
        return self.schema.n_kv_head, self.schema.head_width

    def hidden(self, idx_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """The residual stream after the last block, normalised: [B,T] -> [B,T,C]."""
        past = 0 if cache is None else cache.length
        positions_T = torch.arange(past, past + idx_BT.size(1), device=idx_BT.device)
        schema = self.schema
        cos_TD, sin_TD = rotary_angles(
            positions_T, schema.head_width, schema.rotary_base, schema.rotary_scaling
        )
        x_BTC = self.embedding(idx_BT).to(self.compute_dtype)
        for layer, block in enumerate(self.blocks):
            mask = None
            if self.training and self.config.dropout:
                mask = random_bytes(2, *x_BTC.shape, device=x_BTC.device)
            run = partial(self.recomputed, block) if self.recompute else block
            x_BTC = run(x_BTC, cos_TD, sin_TD, cache and cache.layers[layer], mask)
        return self.norm(x_BTC)
