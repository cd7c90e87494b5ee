"""Where the lecture's models have what can be seen, from the table to the stack of blocks.

Shapes in names: T time, S the positions attended to (S = T), C n_embd, H heads, D head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hornbook.lens.anatomy import (
    Activations,
    Anatomy,
    of_kind,
    results,
    stack_writes,
    zeros,
    zeros_at,
)
from hornbook.lens.tape import Tape
from hornbook.models.attention import Head, MultiHeadAttention, PositionedLanguageModel
from hornbook.models.averaging import AverageLanguageModel, average_weights, softmax_weights
from hornbook.models.bigram import BigramLanguageModel
from hornbook.models.transformer import Block


class LectureAnatomy(Anatomy):
    """The lecture's models with attention, from one head to a stack of blocks.

    The first three have one layer without a residual path: what follows reads the layer's result
    alone, so that the embedding adds nothing to the logits directly.
    """

    def __init__(self, network: PositionedLanguageModel) -> None:
        body = network.blocks
        norms = of_kind(nn.LayerNorm, body)
        super().__init__(norms[0] if norms else nn.Identity(), network.lm_head)
        self.network = network
        self.blocks = of_kind(Block, body)
        self.residual = bool(self.blocks)
        self.thinks: list[nn.Module] = [block.ffwd for block in self.blocks]
        attentions: list[nn.Module] = [block.sa for block in self.blocks]
        if not self.residual and isinstance(body, nn.Sequential):  # feedforward: heads, and an MLP
            attentions, self.thinks = [body[0]], [body[-1]]
        elif not self.residual:
            attentions = [body]
        self.attentions = attentions
        self.heads = [
            [each] if isinstance(each, Head) else of_kind(Head, each.heads)
            for each in attentions
            if isinstance(each, Head | MultiHeadAttention)
        ]
        self.n_layer, self.n_head = len(self.heads), len(self.heads[0])

    def parts(self) -> list[nn.Module]:
        body = self.network.blocks
        return [self.network.token_embedding_table, *body.modules()]

    def activations(self, tape: Tape) -> Activations:
        table = self.network.position_embedding_table.weight
        who_TC = tape.made(self.network.token_embedding_table)
        seen = {"hook_embed": who_TC, "hook_pos_embed": table[: len(who_TC)].detach()}
        for layer in range(self.n_layer):
            for name, value in self.layer(layer, tape).items():
                seen[f"blocks.{layer}.{name}"] = value
        if isinstance(self.norm, nn.LayerNorm):
            seen["ln_final.hook_normalized"] = tape.made(self.norm)
        return seen

    def layer(self, layer: int, tape: Tape) -> Activations:
        """The activations of one layer."""
        heads, attention = self.heads[layer], self.attentions[layer]
        q_THD, k_SHD = (
            side_by_side([tape.made(part) for part in parts])
            for parts in ([head.query for head in heads], [head.key for head in heads])
        )
        scores_HTS = torch.einsum("thd,shd->hts", q_THD, k_SHD) * q_THD.size(-1) ** -0.5
        seen = {
            "attn.hook_q": q_THD,
            "attn.hook_k": k_SHD,
            "attn.hook_v": side_by_side([tape.made(head.value) for head in heads]),
            "attn.hook_attn_scores": without_future(scores_HTS),
            "attn.hook_pattern": softmax_weights(scores_HTS),
            "attn.hook_z": side_by_side([tape.made(head) for head in heads]),
            "hook_attn_out": tape.made(attention),
        }
        if self.residual:
            return seen | self.around(self.blocks[layer], seen["attn.hook_z"], tape)
        seen |= {
            "hook_resid_pre": tape.given(heads[0]),
            "attn.hook_result": in_own_channels(seen["attn.hook_z"]),
            "hook_resid_post": seen["hook_attn_out"],
        }
        if self.thinks:
            seen["hook_resid_mid"] = seen["hook_attn_out"]
            seen["mlp.hook_pre"] = tape.given(self.thinks[layer])
            seen["hook_mlp_out"] = seen["hook_resid_post"] = tape.made(self.thinks[layer])
        return seen

    def around(self, block: Block, z_THD: Tensor, tape: Tape) -> Activations:
        """The residual stream of one block, and its MLP."""
        wide, relu, *_ = block.ffwd.children()
        seen = {
            "hook_resid_pre": tape.given(block),
            "ln1.hook_normalized": tape.made(block.ln1),
            "hook_resid_mid": tape.given(block.ln2),
            "ln2.hook_normalized": tape.made(block.ln2),
            "mlp.hook_pre": tape.made(wide),
            "mlp.hook_post": tape.made(relu),
            "hook_mlp_out": tape.made(block.ffwd),
            "hook_resid_post": tape.made(block),
        }
        if isinstance(proj := block.sa.proj, nn.Linear):
            seen["attn.hook_result"] = results(z_THD, proj.weight.detach())
            seen["attn.bias"] = proj.bias.detach().expand_as(seen["hook_resid_pre"])
        return seen

    def writes(self, seen: Activations) -> dict[str, Tensor]:
        if self.residual:
            embedded = {"embed": seen["hook_embed"], "pos_embed": seen["hook_pos_embed"]}
            return {**embedded, **stack_writes(seen, self.n_layer)}
        if self.thinks:
            return {"blocks.0.mlp": seen["blocks.0.hook_mlp_out"]}
        result_THC = seen["blocks.0.attn.hook_result"]
        return {f"blocks.0.attn.head.{h}": result_THC[:, h] for h in range(self.n_head)}

    def without_head(self, layer: int, head: int) -> RemovableHandle:
        return self.heads[layer][head].register_forward_hook(zeros)

    def mlps(self) -> list[nn.Module]:
        return self.thinks


def side_by_side(heads: list[Tensor]) -> Tensor:
    """What each head has, in one tensor: H of [T,D] -> [T,H,D]."""
    return torch.stack(heads, dim=1)


def in_own_channels(z_THD: Tensor) -> Tensor:
    """Each head's result where it stands in that of all, beside zeros: [T,H,D] -> [T,H,H*D]."""
    H = z_THD.size(1)
    return (z_THD[:, :, None] * torch.eye(H, device=z_THD.device)[:, :, None]).flatten(2)


def without_future(scores_HTS: Tensor) -> Tensor:
    """The scores, minus infinity for what comes later."""
    future_TS = torch.ones_like(scores_HTS[0], dtype=torch.bool).triu(1)
    return scores_HTS.masked_fill(future_TS, float("-inf"))


class AverageAnatomy(Anatomy):
    """The mean of the past as one head that attends to all alike.

    Its residual stream is twice as wide as the embedding: the token itself, and beside it the mean.
    """

    n_layer = n_head = 1

    def __init__(self, network: AverageLanguageModel) -> None:
        super().__init__(nn.Identity(), network.lm_head)
        self.network = network

    def parts(self) -> list[nn.Module]:
        return [self.network.token_embedding_table, self.network.lm_head]

    def activations(self, tape: Tape) -> Activations:
        x_TC, both = tape.made(self.network.token_embedding_table), tape.given(self.head)
        T, C = x_TC.shape
        mean_TC = both[:, C:]
        return {
            "hook_embed": x_TC,
            "blocks.0.hook_resid_pre": F.pad(x_TC, (0, C)),
            "blocks.0.attn.hook_v": x_TC[:, None],
            "blocks.0.attn.hook_attn_scores": without_future(x_TC.new_zeros(1, T, T)),
            "blocks.0.attn.hook_pattern": average_weights(T, device=x_TC.device)[None],
            "blocks.0.attn.hook_z": mean_TC[:, None],
            "blocks.0.attn.hook_result": F.pad(mean_TC, (C, 0))[:, None],
            "blocks.0.hook_attn_out": F.pad(mean_TC, (C, 0)),
            "blocks.0.hook_resid_post": both,
        }

    def writes(self, seen: Activations) -> dict[str, Tensor]:
        return {
            "embed": seen["blocks.0.hook_resid_pre"],
            "blocks.0.attn.head.0": seen["blocks.0.hook_attn_out"],
        }

    def without_head(self, layer: int, head: int) -> RemovableHandle:  # noqa: ARG002 (the only one)
        width = self.network.token_embedding_table.embedding_dim
        return self.network.lm_head.register_forward_pre_hook(zeros_at(slice(width, None)))


class BigramAnatomy(Anatomy):
    """A table: its residual stream is the row of logits itself, and there is no layer."""

    def __init__(self, network: BigramLanguageModel) -> None:
        super().__init__(nn.Identity(), nn.Identity())
        self.network = network

    def parts(self) -> list[nn.Module]:
        return [self.network.token_embedding_table]

    def activations(self, tape: Tape) -> Activations:
        return {"hook_embed": tape.made(self.network.token_embedding_table)}

    def writes(self, seen: Activations) -> dict[str, Tensor]:
        return {"embed": seen["hook_embed"]}
