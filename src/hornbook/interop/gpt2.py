"""GPT-2s for the transformers library: those that are one, and the lecture's transformer as one.

For the latter two things differ. GPT-2's attention has biases, and zeros are none. The lecture's
logits have a bias, and GPT-2's have none: it becomes a channel. Each head gets one channel more,
C + H in all, that stays zero along the residual path. The last normalisation sets one of them to 1
by its own bias, and there the logits' weights hold their bias.

The normalisations must not notice the added zeros. What is added to the residual path is centred
first: each normalisation subtracts the mean anyway, and of centred channels it remains 0. A mean
of squares is then smaller by C / (C + H), and so are epsilon and the square of each gain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hornbook.errors import ConfigError
from hornbook.language import msg
from hornbook.models.gpt2 import GPT2
from hornbook.pretrained.names import hf_parts, stored

if TYPE_CHECKING:
    from hornbook.config import ModelConfig
    from hornbook.pretrained.names import Part
    from hornbook.runs.load import TrainedModel

EPSILON = 1e-5  # torch's LayerNorm


def parts(config: ModelConfig) -> dict[str, Part]:
    """Where each weight of a GPT-2 is in transformers' files."""
    return {
        ours: part if ours == "logits.weight" else part._replace(name=f"transformer.{part.name}")
        for ours, part in hf_parts(config).items()
    }


def settings(model: GPT2) -> dict[str, Any]:
    """The settings of transformers for a GPT-2 that is one."""
    config = model.config
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocab_size,
        "n_positions": model.context_size,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.mlp_width or 4 * config.n_embd,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_epsilon or EPSILON,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": "float32",
    }


def form(trained: TrainedModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the weights of transformers for a model that has a form as GPT-2.

    Raises: ConfigError for another model.
    """
    model = trained.model
    if isinstance(model, GPT2):
        return settings(model), dict(stored(parts(model.config), model.state_dict()))
    return widened(trained)


def widened(trained: TrainedModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the weights of the GPT-2 that computes what a `layernorm` model does.

    Raises: ConfigError for another model.
    """
    shape = trained.config.model
    if shape.model != "layernorm":
        raise ConfigError(
            msg("GPT-2 has no form of {model}: its blocks have normalisations", model=shape.model)
        )
    ours = {name: each.double() for name, each in trained.model.state_dict().items()}
    C, H = shape.n_embd, shape.n_head
    D, wide = C // H, C + H
    shrink = C / wide

    def padded(x: Tensor) -> Tensor:
        """[..., C] -> [..., C + H]"""
        return torch.nn.functional.pad(x, (0, H))

    def centred(x: Tensor) -> Tensor:
        """What is added to the residual path: of mean zero over its channels."""
        return padded(x - x.mean(dim=-1, keepdim=True))

    def norm(theirs: str, name: str) -> None:
        made[f"{theirs}.weight"] = padded(ours[f"{name}.weight"] * shrink**0.5)
        made[f"{theirs}.bias"] = padded(ours[f"{name}.bias"])

    def head(layer: str, h: int, part: str) -> Tensor:
        """One head's products as GPT-2 has them, inputs first: [C + H, D + 1]."""
        weight = padded(ours[f"{layer}.sa.heads.{h}.{part}.weight"]).T
        if part == "query":  # GPT-2 divides by the root of the wider head
            weight = weight * ((D + 1) / D) ** 0.5
        return torch.nn.functional.pad(weight, (0, 1))

    made: dict[str, Tensor] = {
        "transformer.wte.weight": centred(ours["token_embedding_table.weight"]),
        "transformer.wpe.weight": centred(ours["position_embedding_table.weight"]),
    }
    for i in range(shape.n_layer):
        layer, block = f"blocks.{i}", f"transformer.h.{i}"
        norm(f"{block}.ln_1", f"{layer}.ln1")
        norm(f"{block}.ln_2", f"{layer}.ln2")
        parts = ("query", "key", "value")
        columns = [head(layer, h, part) for part in parts for h in range(H)]
        made[f"{block}.attn.c_attn.weight"] = torch.cat(columns, dim=1)
        made[f"{block}.attn.c_attn.bias"] = torch.zeros(3 * wide)
        mixed = centred(ours[f"{layer}.sa.proj.weight"].T).view(H, D, wide)
        made[f"{block}.attn.c_proj.weight"] = torch.nn.functional.pad(mixed, (0, 0, 0, 1)).flatten(
            0, 1
        )
        made[f"{block}.attn.c_proj.bias"] = centred(ours[f"{layer}.sa.proj.bias"])
        made[f"{block}.mlp.c_fc.weight"] = padded(ours[f"{layer}.ffwd.0.weight"]).T
        made[f"{block}.mlp.c_fc.bias"] = ours[f"{layer}.ffwd.0.bias"]
        made[f"{block}.mlp.c_proj.weight"] = centred(ours[f"{layer}.ffwd.2.weight"].T)
        made[f"{block}.mlp.c_proj.bias"] = centred(ours[f"{layer}.ffwd.2.bias"])
    norm("transformer.ln_f", f"blocks.{shape.n_layer}")
    made["transformer.ln_f.bias"][C] = 1
    made["lm_head.weight"] = padded(ours["lm_head.weight"])
    made["lm_head.weight"][:, C] = ours["lm_head.bias"]
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": trained.tokenizer.vocab_size,
        "n_positions": shape.block_size,
        "n_embd": wide,
        "n_layer": shape.n_layer,
        "n_head": H,
        "n_inner": 4 * C,
        "activation_function": "relu",
        "layer_norm_epsilon": EPSILON * shrink,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": "float32",
    }
    return config, {name: each.float() for name, each in made.items()}
