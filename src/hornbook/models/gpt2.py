"""GPT-2: the lecture's last model grown up. Learned positions, LayerNorm, and biases everywhere.

Between it and `layernorm` stand three things: GELU instead of ReLU, a bias in every product of the
attention, and logits that share the table of the embedding.
Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", in the form that
the weights published with it have.

Shapes in names: B batch, T time, C n_embd, H heads, D head width, V vocabulary; S is the number of
positions attended to.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.config import ModelConfig, ModelSpec
from hornbook.errors import ConfigError
from hornbook.language import msg
from hornbook.models.gpt import Linear, attention, drop, random_bytes
from hornbook.models.kv_cache import KeyValueCache, LayerCache
from hornbook.models.registry import counted_on_meta
from hornbook.models.stack import StackModel

EPSILON = 1e-5


class LayerNorm(nn.LayerNorm):
    """Normalisation in float32, whatever the activations' precision."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        return super().forward(input.float()).to(input.dtype)


class Attention(nn.Module):
    """Causal self-attention over all positions. [B,T,C] -> [B,T,C]."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.query, self.key, self.value, self.output = (
            Linear(n_embd, n_embd, bias=True) for _ in range(4)
        )

    def forward(self, x_BTC: Tensor, cache: LayerCache | None = None) -> Tensor:
        heads = (*x_BTC.shape[:2], self.n_head, -1)
        q_BHTD, k_BHSD, v_BHSD = (
            each(x_BTC).view(heads).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        if cache is not None:
            k_BHSD, v_BHSD = cache.extend(k_BHSD, v_BHSD)
        return self.output(attention(q_BHTD, k_BHSD, v_BHSD).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Wider, GELU, and back, at every position alone. [B,T,C] -> [B,T,C].

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, in the form with tanh.
    """

    def __init__(self, n_embd: int, width: int) -> None:
        super().__init__()
        self.up = Linear(n_embd, width, bias=True)
        self.down = Linear(width, n_embd, bias=True)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BTC), approximate="tanh"))


class Block(nn.Module):
    """Attention, then an MLP; each reads a normalised copy and adds to the residual stream.

    `mask` [2,B,T,C], random bytes, decides what dropout zeroes in what the two halves add.
    """

    def __init__(self, config: ModelConfig, epsilon: float) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = LayerNorm(config.n_embd, epsilon)
        self.attention = Attention(config.n_embd, config.n_head)
        self.mlp_norm = LayerNorm(config.n_embd, epsilon)
        self.mlp = MLP(config.n_embd, config.mlp_width or 4 * config.n_embd)

    def forward(
        self, x_BTC: Tensor, cache: LayerCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        y_BTC = self.attention(self.attention_norm(x_BTC), cache)
        x_BTC = x_BTC + (y_BTC if mask is None else drop(y_BTC, mask[0], self.dropout))
        y_BTC = self.mlp(self.mlp_norm(x_BTC))
        return x_BTC + (y_BTC if mask is None else drop(y_BTC, mask[1], self.dropout))


class GPT2(StackModel):
    """Tokens and positions are embedded and added; blocks; a norm; logits.

    It has as many positions as its context length, and none beyond.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(vocab_size, config.block_size, config.context_size)
        self.config = config
        epsilon = config.norm_epsilon or EPSILON
        self.embedding = nn.Embedding(vocab_size, config.n_embd)
        self.positions = nn.Embedding(self.context_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, epsilon) for _ in range(config.n_layer))
        self.norm = LayerNorm(config.n_embd, epsilon)
        self.logits = Linear(config.n_embd, vocab_size)
        if config.tie_embeddings:
            self.logits.weight = self.embedding.weight
        self.initialize()

    def initialize(self) -> None:
        """As GPT-2's own: normal weights of 0.02, smaller where 2 n_layer of them are added up."""
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                added = name.endswith(("attention.output.weight", "mlp.down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * len(self.blocks)) ** (0.5 * added))
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    @property
    def cache_shape(self) -> tuple[int, int]:
        """Heads and the width of each."""
        return self.config.n_head, self.config.n_embd // self.config.n_head

    def hidden(self, idx_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """The residual stream after the last block, normalised: [B,T] -> [B,T,C]."""
        past = 0 if cache is None else cache.length
        positions_T = torch.arange(past, past + idx_BT.size(1), device=idx_BT.device)
        x_BTC = (self.embedding(idx_BT) + self.positions(positions_T)).to(self.compute_dtype)
        for layer, block in enumerate(self.blocks):
            mask = None
            if self.training and self.config.dropout:
                mask = random_bytes(2, *x_BTC.shape, device=x_BTC.device)
            run = partial(self.recomputed, block) if self.recompute else block
            x_BTC = run(x_BTC, cache and cache.layers[layer], mask)
        return self.norm(x_BTC)


def check(config: ModelConfig) -> None:
    """Check that the width splits into the heads, and that nothing of a GPT is asked for.

    Raises: ConfigError.
    """
    if config.n_embd % config.n_head:
        raise ConfigError(
            msg(
                "n_embd = {n_embd} does not split into n_head = {n_head} heads",
                n_embd=config.n_embd,
                n_head=config.n_head,
            )
        )
    names = ("n_kv_head", "head_width", "sliding_window", "rotary_base", "rotary_scaling")
    if other := next((name for name in names if getattr(config, name) is not None), None):
        raise ConfigError(msg("{other} is a setting of a gpt; a gpt2 has none", other=other))


SPECS = {
    "gpt2": ModelSpec(
        idea=msg("GELU, biases, one table"),
        network=GPT2,
        parameters=counted_on_meta(GPT2),
        activations=lambda config: (
            config.n_layer * (34.0 * config.n_embd + 2.0 * config.n_head * config.block_size)
        ),
        check=check,
        preset={"tie_embeddings": True, "optimizer": "adamw", "learning_rate": 1e-3},
        rung=False,
    )
}
