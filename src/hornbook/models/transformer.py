"""From attention to the lecture's transformer: an MLP, residual paths, normalisation.

Shapes in names: B batch, T time, C n_embd.
"""

from torch import Tensor, nn

from hornbook.config import ModelConfig, ModelSpec
from hornbook.language import msg
from hornbook.models import attention
from hornbook.models.attention import (
    MultiHeadAttention,
    PositionedLanguageModel,
    check_heads,
    head_activations,
)
from hornbook.models.registry import counted_on_meta


class FeedForward(nn.Sequential):
    """Each position thinks for itself: four times wider, ReLU, and back. [B,T,C] -> [B,T,C]."""

    def __init__(self, n_embd: int, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Linear(n_embd, 4 * n_embd),
            nn.ReLU(),
            nn.Linear(4 * n_embd, n_embd),
            nn.Dropout(dropout),
        )


class Block(nn.Module):
    """Look back, then think; what each half finds is added to what was there. [B,T,C] -> [B,T,C].

    `norm` gives each half a normalised copy to read (pre-norm), so that the residual path itself
    stays free of it.
    Source: He et al. 2015, arXiv:1512.03385 (residual paths); Xiong et al. 2020, arXiv:2002.04745
    (pre-norm).
    """

    def __init__(
        self, n_embd: int, n_head: int, dropout: float = 0.0, *, norm: bool = True
    ) -> None:
        super().__init__()
        self.sa = MultiHeadAttention(n_embd, n_head, dropout)
        self.ffwd = FeedForward(n_embd, dropout)
        self.ln1 = nn.LayerNorm(n_embd) if norm else nn.Identity()
        self.ln2 = nn.LayerNorm(n_embd) if norm else nn.Identity()

    def forward(self, x_BTC: Tensor) -> Tensor:
        x_BTC = x_BTC + self.sa(self.ln1(x_BTC))
        return x_BTC + self.ffwd(self.ln2(x_BTC))


def stack(config: ModelConfig, *, norm: bool) -> list[nn.Module]:
    """`n_layer` blocks, to be run one after the other."""
    return [
        Block(config.n_embd, config.n_head, config.dropout, norm=norm)
        for _ in range(config.n_layer)
    ]


class FeedForwardLanguageModel(PositionedLanguageModel):
    """Heads, then time to think about what they found: a layer and a ReLU at every position."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        heads = MultiHeadAttention(config.n_embd, config.n_head, config.dropout, projection=False)
        think = nn.Linear(config.n_embd, config.n_embd), nn.ReLU()
        super().__init__(config, vocab_size, nn.Sequential(heads, *think))


class ResidualLanguageModel(PositionedLanguageModel):
    """Both halves as a block, with a residual path past each, and the blocks as a stack."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size, nn.Sequential(*stack(config, norm=False)))


class LayerNormLanguageModel(PositionedLanguageModel):
    """The same stack, every half and the logits reading a normalised copy."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        final_norm = nn.LayerNorm(config.n_embd)
        blocks = nn.Sequential(*stack(config, norm=True), final_norm)
        super().__init__(config, vocab_size, blocks)


def stack_activations(config: ModelConfig) -> float:
    """The numbers that blocks keep of one position."""
    return config.n_layer * head_activations(config)


SPECS = {
    "feedforward": ModelSpec(
        idea=msg("an MLP"),
        network=FeedForwardLanguageModel,
        parameters=counted_on_meta(FeedForwardLanguageModel),
        activations=head_activations,
        check=check_heads,
        preset=attention.SPECS["heads"].preset,
    ),
    "residual": ModelSpec(
        idea=msg("blocks, residuals"),
        network=ResidualLanguageModel,
        parameters=counted_on_meta(ResidualLanguageModel),
        activations=stack_activations,
        check=check_heads,
        preset={**attention.SPECS["heads"].preset, "n_layer": 3},
    ),
    "layernorm": ModelSpec(
        idea=msg("normalisation"),
        network=LayerNormLanguageModel,
        parameters=counted_on_meta(LayerNormLanguageModel),
        activations=stack_activations,
        check=check_heads,
        preset={**attention.SPECS["heads"].preset, "n_layer": 3},
    ),
}
