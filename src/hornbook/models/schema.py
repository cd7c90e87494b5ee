"""The anatomy of a GPT, without torch: its sizes, and the name and shape of every weight.

The one owner of these facts: the network, the decoder in C, the optimizer, the memory estimate and
the planner ask it. It describes Llama's and Qwen3's shapes as well: fewer key-value heads, any
width of head and MLP, another rotary base, tied embeddings, no norm of queries and keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from hornbook.config import ModelConfig

Shape: TypeAlias = tuple[int, ...]

BLOCKS = "blocks"
# From this size on logits are computed a few at a time: those of 1,024 positions of SmolLM2's
# vocabulary and their gradients would take a gigabyte.
LARGE_VOCABULARY = 16_384
CHUNK_LOGITS = 2**23


class RotaryScaling(NamedTuple):
    """Llama 3's slower rotations for longer contexts."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_length: int

    def slowed(self, frequencies: Any) -> Any:
        """Slow rotations made slower by `factor`, fast ones kept, and those between interpolated.

        Of a tensor or an array, another one.
        Source: the rotary embeddings of Llama 3.1, "rope_type": "llama3".
        """
        turns = self.original_length * frequencies / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept = ((turns - low) / (high - low)).clip(0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The sizes of a decoder-only transformer.

    `window` is how many positions a layer attends to, its own counted; None for all of them.
    """

    vocab_size: int
    n_layer: int
    n_embd: int
    n_head: int
    n_kv_head: int
    head_width: int
    mlp_width: int
    window: int | None = None
    rotary_base: float = 10_000.0
    rotary_scaling: RotaryScaling | None = None
    epsilon: float = 1e-6
    query_key_norm: bool = True
    tied: bool = False

    @classmethod
    def of(cls, config: ModelConfig, vocab_size: int) -> Schema:
        """The GPT that settings describe: Qwen3's shape, with a key-value head for each head.

        Settings of a network from elsewhere say what differs.
        """
        scaling = config.rotary_scaling
        windowed = config.context_length is None
        return cls(
            vocab_size=vocab_size,
            n_layer=config.n_layer,
            n_embd=config.n_embd,
            n_head=config.n_head,
            n_kv_head=config.n_kv_head or config.n_head,
            head_width=config.head_width or config.n_embd // config.n_head,
            # 8/3 of n_embd, so that three matrices cost what a plain MLP's two do; in 32s.
            mlp_width=config.mlp_width or -(-8 * config.n_embd // 96) * 32,
            window=config.block_size if windowed else config.sliding_window,
            rotary_base=config.rotary_base or cls.rotary_base,
            rotary_scaling=RotaryScaling(*scaling) if scaling else None,
            epsilon=config.norm_epsilon or cls.epsilon,
            query_key_norm=config.query_key_norm,
            tied=config.tie_embeddings,
        )

    def block(self) -> dict[str, Shape]:
        """The weights of one block, in the order of its parameters: [outputs, inputs], or gains."""
        C, D, F = self.n_embd, self.head_width, self.mlp_width
        queries, keys = self.n_head * D, self.n_kv_head * D
        norms = {"attention.query_norm": (D,), "attention.key_norm": (D,)}
        return {
            f"{name}.weight": shape
            for name, shape in {
                "attention_norm": (C,),
                "attention.query": (queries, C),
                "attention.key": (keys, C),
                "attention.value": (keys, C),
                "attention.output": (C, queries),
                **(norms if self.query_key_norm else {}),
                "mlp_norm": (C,),
                "mlp.gate": (F, C),
                "mlp.up": (F, C),
                "mlp.down": (C, F),
            }.items()
        }

    def weights(self, n_layer: int | None = None) -> dict[str, Shape]:
        """Every weight as a state dict names it; a tied table stands there under both its names.

        `n_layer` stands in for the schema's own.
        """
        table = (self.vocab_size, self.n_embd)
        layers = range(self.n_layer if n_layer is None else n_layer)
        block = self.block()
        return {
            "embedding.weight": table,
            **{f"{BLOCKS}.{i}.{name}": shape for i in layers for name, shape in block.items()},
            "norm.weight": (self.n_embd,),
            "logits.weight": table,
        }

    @property
    def block_parameters(self) -> int:
        """The parameters of one block."""
        return sum(map(prod, self.block().values()))

    @property
    def block_matrix_parameters(self) -> int:
        """Those of them that stand in matrices."""
        return sum(prod(shape) for shape in self.block().values() if len(shape) == 2)

    @property
    def parameters(self) -> int:
        """Distinct parameters; a tied table counts once."""
        tables = self.vocab_size * self.n_embd * (1 if self.tied else 2)
        return self.n_layer * self.block_parameters + self.n_embd + tables

    def training_flops(self, length: int) -> int:
        """Floating-point operations of training on one token of a text of so many.

        Six for each parameter of a product, and twelve for each channel of each position attended
        to (the masked ones counted: Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
        """
        products = self.n_layer * self.block_matrix_parameters + self.vocab_size * self.n_embd
        attended = length if self.window is None else min(length, self.window)
        return 6 * products + 12 * self.n_layer * self.n_head * self.head_width * attended

    def cache_numbers(self, context_size: int) -> int:
        """Numbers in the keys and values of one text of so many positions."""
        return 2 * self.n_layer * self.n_kv_head * self.head_width * context_size


def is_matrix(name: str, shape: Shape) -> bool:
    """Whether Muon takes a weight: every matrix inside a block, of whichever model."""
    return len(shape) == 2 and BLOCKS in name.split(".")[:2]
