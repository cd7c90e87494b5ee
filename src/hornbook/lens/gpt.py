"""Where a GPT has what can be seen.

Shapes in names: T time, S the positions attended to (S = T), C n_embd, H heads, D head width.
"""

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hornbook.lens.anatomy import (
    Activations,
    Anatomy,
    of_kind,
    results,
    stack_writes,
    zeros_at,
)
from hornbook.lens.tape import Tape
from hornbook.models.gpt import GPT, Block, rotate, visible


class GPTAnatomy(Anatomy):
    """A stack of blocks with rotary attention and a gated MLP."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__(gpt.norm, gpt.logits)
        self.gpt = gpt
        self.n_layer, self.n_head = gpt.schema.n_layer, gpt.schema.n_head
        self.blocks = of_kind(Block, gpt.blocks)

    def parts(self) -> list[nn.Module]:
        found: list[nn.Module] = [self.gpt.embedding, self.norm]
        for block in self.blocks:
            attention, mlp = block.attention, block.mlp
            found += [block, block.attention_norm, attention, block.mlp_norm, mlp]
            found += [*attention.children(), *mlp.children()]
        return found

    def activations(self, tape: Tape) -> Activations:
        seen = {"hook_embed": tape.made(self.gpt.embedding)}
        for layer, block in enumerate(self.blocks):
            for name, value in self.block(block, tape).items():
                seen[f"blocks.{layer}.{name}"] = value
        return seen | {"ln_final.hook_normalized": tape.made(self.norm)}

    def block(self, block: Block, tape: Tape) -> Activations:
        """The activations of one block."""
        attention, mlp, width = block.attention, block.mlp, block.schema.head_width
        _, cos_TD, sin_TD, *_ = tape.inputs[attention]

        def heads(x_TC: Tensor) -> Tensor:
            return x_TC.unflatten(-1, (-1, width))

        q_HTD = rotate(tape.made(attention.query_norm).transpose(0, 1), cos_TD, sin_TD)
        k_HSD = rotate(tape.made(attention.key_norm).transpose(0, 1), cos_TD, sin_TD)
        groups = attention.n_head // attention.n_kv_head
        scores_HTS = q_HTD @ k_HSD.repeat_interleave(groups, 0).transpose(1, 2) / width**0.5
        T, S = scores_HTS.shape[1:]
        seen_TS = visible(T, S, attention.window, scores_HTS.device)
        scores_HTS = scores_HTS.masked_fill(~seen_TS, float("-inf"))
        z_THD = heads(tape.given(attention.output))
        return {
            "hook_resid_pre": tape.given(block),
            "ln1.hook_normalized": tape.made(block.attention_norm),
            "attn.hook_q": heads(tape.made(attention.query)),
            "attn.hook_k": heads(tape.made(attention.key)),
            "attn.hook_v": heads(tape.made(attention.value)),
            "attn.hook_rot_q": q_HTD.transpose(0, 1),
            "attn.hook_rot_k": k_HSD.transpose(0, 1),
            "attn.hook_attn_scores": scores_HTS,
            "attn.hook_pattern": scores_HTS.softmax(dim=-1),
            "attn.hook_z": z_THD,
            "attn.hook_result": results(z_THD, attention.output.weight),
            "hook_attn_out": tape.made(attention),
            "hook_resid_mid": tape.given(block.mlp_norm),
            "ln2.hook_normalized": tape.made(block.mlp_norm),
            "mlp.hook_pre": tape.made(mlp.gate),
            "mlp.hook_pre_linear": tape.made(mlp.up),
            "mlp.hook_post": tape.given(mlp.down),
            "hook_mlp_out": tape.made(mlp),
            "hook_resid_post": tape.made(block),
        }

    def writes(self, seen: Activations) -> dict[str, Tensor]:
        return {"embed": seen["hook_embed"], **stack_writes(seen, self.n_layer)}

    def without_head(self, layer: int, head: int) -> RemovableHandle:
        attention = self.blocks[layer].attention
        width = attention.head_width
        places = slice(head * width, (head + 1) * width)
        return attention.output.register_forward_pre_hook(zeros_at(places))

    def mlps(self) -> list[nn.Module]:
        return [block.mlp for block in self.blocks]
