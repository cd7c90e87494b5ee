"""GPT: the flagship. A decoder-only transformer with today's block, and nothing hidden.

The mathematics is Qwen3's (Qwen Team 2025, arXiv:2505.09388), letter for letter, so that a model
trained here runs wherever Qwen3 runs: RMSNorm before each half, rotary positions, normalised
queries and keys, a gated SiLU MLP, no biases.

Shapes in names: B batch, T time, C n_embd, H n_head, D head width, F MLP width, V vocabulary;
S is the number of positions attended to (S = T unless a cache supplies older ones).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.config import ModelConfig
from hornbook.models.kv_cache import KeyValueCache, LayerCache
from hornbook.models.language_model import LanguageModel

EPSILON = 1e-6
ROTARY_BASE = 10_000.0


def rotary_angles(positions_T: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's rotation, float32.

    Shapes: [T] -> two of [T,D], each half of D repeating the same D/2 frequencies.
    Source: Su et al. 2021, arXiv:2104.09864, in the half-split layout of GPT-NeoX and Qwen.
    """
    exponents = torch.arange(0, head_width, 2, device=positions_T.device) / head_width
    angles_TD = torch.outer(positions_T.float(), ROTARY_BASE**-exponents).repeat(1, 2)
    return angles_TD.cos(), angles_TD.sin()


def rotate(x_BHTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Turn each pair (i, i + D/2) of every head by its position's angle."""
    first, second = x_BHTD.chunk(2, dim=-1)
    return x_BHTD * cos_TD + torch.cat((-second, first), dim=-1) * sin_TD


def attention_reference(
    q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, window: int | None = None
) -> Tensor:
    """Causal attention as the formula has it, in float32: what every faster form is held to.

    Each position sees itself and all before it; with a `window` only that many, itself counted.
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
    """Which of S positions each of the last T sees: [T,S]."""
    visible_TS = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
    return visible_TS if window is None else visible_TS.triu(S - T - window + 1)


def attention(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, window: int | None = None) -> Tensor:
    """`attention_reference`, by the fastest form on this device; same shapes.

    On a CPU the two products and the softmax are written out: their bfloat16 backward pass runs at
    73-83 GFLOP/s on two cores, that of torch's fused kernel at 25. On a GPU the fused kernel wins.
    """
    T, S = q_BHTD.size(-2), k_BHSD.size(-2)
    if window is not None and window < T == S:
        return in_windows(q_BHTD, k_BHSD, v_BHSD, window)
    if window is not None and T + window - 1 < S:
        seen = slice(S - T - window + 1, S)
        return attention(q_BHTD, k_BHSD[:, :, seen], v_BHSD[:, :, seen], window)
    if q_BHTD.device.type != "cpu" and (window is None or window >= S):
        return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, is_causal=T == S and T > 1)
    return written_out(q_BHTD, k_BHSD, v_BHSD, visible(T, S, window, q_BHTD.device))


def written_out(q: Tensor, k: Tensor, v: Tensor, visible_TS: Tensor) -> Tensor:
    """Two products and a softmax between them, over what is visible.

    The softmax keeps its result in the activations' precision: forward the same bits as in float32
    rounded, gradients 0.7% off float32's instead of 0.64%, in 57% of the time.
    """
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(-2, -1)
    scores.masked_fill_(~visible_TS, float("-inf"))
    return scores.softmax(dim=-1) @ v


def in_windows(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, window: int) -> Tensor:
    """Windowed attention in chunks as long as the window, each over itself and the one before.

    Twice the window's work a position instead of the block's.
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
    y = written_out(q, pairs(k_BHTD), pairs(v_BHTD), seen)
    return y.reshape(B, H, T + spare, D)[:, :, :T]


class Linear(nn.Linear):
    """A product with a float32 master weight, done in the activations' precision; no bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        return F.linear(input, self.weight.to(input.dtype))


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last dimension, then scale by a learned gain.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, EPSILON).to(x.dtype)


class Attention(nn.Module):
    """Every position looks back over the positions before it, in n_head ways at once."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.window = config.block_size
        self.query = Linear(config.n_embd, config.n_embd)
        self.key = Linear(config.n_embd, config.n_embd)
        self.value = Linear(config.n_embd, config.n_embd)
        self.output = Linear(config.n_embd, config.n_embd)
        self.query_norm = RMSNorm(config.n_embd // config.n_head)
        self.key_norm = RMSNorm(config.n_embd // config.n_head)

    def forward(
        self, x_BTC: Tensor, cos_TD: Tensor, sin_TD: Tensor, cache: LayerCache | None = None
    ) -> Tensor:
        B, T, C = x_BTC.shape

        def heads(y_BTC: Tensor) -> Tensor:
            return y_BTC.view(B, T, self.n_head, C // self.n_head)

        q_BHTD = self.query_norm(heads(self.query(x_BTC))).transpose(1, 2)
        k_BHTD = self.key_norm(heads(self.key(x_BTC))).transpose(1, 2)
        v_BHSD = heads(self.value(x_BTC)).transpose(1, 2)
        cos_TD, sin_TD = cos_TD.to(x_BTC.dtype), sin_TD.to(x_BTC.dtype)
        q_BHTD, k_BHSD = rotate(q_BHTD, cos_TD, sin_TD), rotate(k_BHTD, cos_TD, sin_TD)
        if cache is not None:
            k_BHSD, v_BHSD = cache.extend(k_BHSD, v_BHSD)
        y_BTC = attention(q_BHTD, k_BHSD, v_BHSD, self.window).transpose(1, 2).reshape(B, T, C)
        return self.output(y_BTC)


class MLP(nn.Module):
    """Each position thinks for itself: a gated SiLU layer.

    Source: Shazeer 2020, arXiv:2002.05202 (SwiGLU).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Linear(config.n_embd, config.mlp_width)
        self.up = Linear(config.n_embd, config.mlp_width)
        self.down = Linear(config.mlp_width, config.n_embd)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTC)) * self.up(x_BTC))


def random_bytes(*shape: int, device: torch.device) -> Tensor:
    """Uniform bytes, int8, drawn eight at a time.

    On a CPU torch draws one number after the other: 0.5 million bytes take 0.25 ms on one core, as
    many places of its own dropout mask 3.1 ms, and compiled 12.
    """
    count = math.prod(shape)
    words = torch.randint(-(2**63), 2**63 - 1, (-(-count // 8),), device=device)
    return words.view(torch.int8)[:count].view(shape)


def drop(x: Tensor, noise: Tensor, rate: float) -> Tensor:
    """Dropout, where the noise falls below `rate` (to the nearest 1/256); the rest is scaled up.

    Source: Srivastava et al. 2014.
    """
    threshold = round(256 * rate)
    # As floats, which the compiler turns into vectors: 0.2 ms of 0.5 million places, as bytes 2.3.
    kept = (noise.float() >= threshold - 128).to(x.dtype)
    return x * kept * (256 / (256 - threshold))


class Block(nn.Module):
    """Look back, then think; each half reads a normalised copy and adds to the residual stream.

    `noise` [2,B,T,C], random bytes, decides what dropout takes of what the halves add.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.n_embd)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.n_embd)
        self.mlp = MLP(config)
        self.dropout = config.dropout

    def forward(
        self,
        x_BTC: Tensor,
        cos_TD: Tensor,
        sin_TD: Tensor,
        cache: LayerCache | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        found_BTC = self.attention(self.attention_norm(x_BTC), cos_TD, sin_TD, cache)
        x_BTC = x_BTC + (found_BTC if noise is None else drop(found_BTC, noise[0], self.dropout))
        found_BTC = self.mlp(self.mlp_norm(x_BTC))
        return x_BTC + (found_BTC if noise is None else drop(found_BTC, noise[1], self.dropout))


class GPT(LanguageModel):
    """A stack of blocks between an embedding table and a table of logits.

    It is trained on texts of `block_size` tokens, and reads longer ones through windows of that
    width: a layer sees no further back than in training, but what it sees has itself looked back.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(vocab_size, config.block_size, config.context_size)
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.n_embd)
        self.logits = Linear(config.n_embd, vocab_size)
        if config.tie_embeddings:
            self.logits.weight = self.embedding.weight
        self.initialize()

    def initialize(self) -> None:
        """Start near the uniform guess, so that the loss at birth is ln(vocab_size).

        The last product of each half starts at zero: every block begins as the identity.
        """
        width = self.config.n_embd
        nn.init.normal_(self.embedding.weight, std=0.02 if self.config.tie_embeddings else 1.0)
        if not self.config.tie_embeddings:
            nn.init.zeros_(self.logits.weight)
        for block in self.blocks:
            for name, weight in block.named_parameters():
                if name in ("attention.output.weight", "mlp.down.weight"):
                    nn.init.zeros_(weight)
                elif weight.ndim == 2:
                    nn.init.uniform_(weight, -((3 / width) ** 0.5), (3 / width) ** 0.5)

    def new_cache(self, batch_size: int = 1) -> KeyValueCache:
        """An empty key-value cache for decoding `batch_size` texts side by side."""
        weight = self.embedding.weight
        shape = (batch_size, self.config.n_head, self.config.context_size, self.config.head_width)
        return KeyValueCache(self.config.n_layer, shape, weight.device, self.compute_dtype)

    def hidden(self, idx_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """The residual stream after the last block, normalised: [B,T] -> [B,T,C]."""
        past = 0 if cache is None else cache.length
        positions_T = torch.arange(past, past + idx_BT.size(1), device=idx_BT.device)
        cos_TD, sin_TD = rotary_angles(positions_T, self.config.head_width)
        x_BTC = self.embedding(idx_BT).to(self.compute_dtype)
        for layer, block in enumerate(self.blocks):
            noise = None
            if self.training and self.config.dropout:
                noise = random_bytes(2, *x_BTC.shape, device=x_BTC.device)
            remembered = None if cache is None else cache.layers[layer]
            x_BTC = block(x_BTC, cos_TD, sin_TD, remembered, noise)
        return self.norm(x_BTC)

    def next_logits(self, idx_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Logits of the token after the last one, float32: [B,T] -> [B,V]; fills the cache."""
        return self.logits(self.hidden(idx_BT, cache)[:, -1]).float()

    def forward(
        self, idx_BT: Tensor, targets_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return self.logits_and_loss(self.logits(self.hidden(idx_BT)), targets_BT)
