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
        found = [self.network.token_embedding_table, body, self.norm, *body.modules()]
        return list(dict.fromkeys(found))

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
        x_TC = tape.given(heads[0])

        def side_by_side(tensors: list[Tensor]) -> Tensor:
            return torch.stack(tensors, dim=1)

        scores_HTS = torch.stack(
            [
                tape.made(head.query) @ tape.made(head.key).T * head.key.out_features**-0.5
                for head in heads
            ]
        )
        future_TS = torch.ones_like(scores_HTS[0], dtype=torch.bool).triu(1)
        z_THD = side_by_side([tape.made(head) for head in heads])
        seen = {
            "hook_resid_pre": tape.given(self.blocks[layer]) if self.residual else x_TC,
            "attn.hook_q": side_by_side([tape.made(head.query) for head in heads]),
            "attn.hook_k": side_by_side([tape.made(head.key) for head in heads]),
            "attn.hook_v": side_by_side([tape.made(head.value) for head in heads]),
            "attn.hook_attn_scores": scores_HTS.masked_fill(future_TS, float("-inf")),
            "attn.hook_pattern": softmax_weights(scores_HTS),
            "attn.hook_z": z_THD,
            "hook_attn_out": tape.made(attention),
            "hook_resid_post": tape.made(attention),
        }
        if not self.residual:
            # Each head has its own channels of the result.
            width = z_THD.size(2)
            seen["attn.hook_result"] = side_by_side(
                [
                    F.pad(z_THD[:, h], (h * width, (len(heads) - 1 - h) * width))
                    for h in range(len(heads))
                ]
            )
            if self.thinks:
                seen["hook_resid_mid"] = seen["hook_attn_out"]
                seen["mlp.hook_pre"] = tape.given(self.thinks[layer])
                seen["hook_mlp_out"] = seen["hook_resid_post"] = tape.made(self.thinks[layer])
            return seen
        block = self.blocks[layer]
        proj, (wide, relu, *_) = block.sa.proj, block.ffwd.children()
        if isinstance(proj, nn.Linear):
            seen["attn.hook_result"] = results(z_THD, proj.weight.detach())
            seen["attn.bias"] = proj.bias.detach().expand_as(x_TC)
        return seen | {
            "ln1.hook_normalized": x_TC,
            "hook_resid_mid": tape.given(block.ln2),
            "ln2.hook_normalized": tape.made(block.ln2),
            "mlp.hook_pre": tape.made(wide),
            "mlp.hook_post": tape.made(relu),
            "hook_mlp_out": tape.made(block.ffwd),
            "hook_resid_post": tape.made(block),
        }

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
            "blocks.0.attn.hook_attn_scores": torch.zeros(1, T, T, device=x_TC.device).masked_fill(
                torch.ones(T, T, dtype=torch.bool, device=x_TC.device).triu(1), float("-inf")
            ),
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
