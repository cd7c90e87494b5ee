"""Hugging Face's format: a folder that transformers opens, without code of ours.

A GPT is a Qwen3. The lecture's `layernorm` is a GPT-2 with ReLU, see `gpt2.py`. Models from
elsewhere are again what they were.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from hornbook.interop import gpt2
from hornbook.interop.check import WINDOW, Engine, loss_in_blocks
from hornbook.language import msg
from hornbook.models.gpt import GPT
from hornbook.models.gpt2 import GPT2
from hornbook.pretrained.chat import chat_template
from hornbook.pretrained.names import names_of
from hornbook.text.chat import end_of_answers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from hornbook.interop.check import Text
    from hornbook.interop.request import Request
    from hornbook.models.schema import Schema
    from hornbook.runs.load import TrainedModel

TOLERANCE = 1e-3


def files(trained: TrainedModel, _: Request) -> dict[str, bytes]:
    """The files of the folder by name."""
    import safetensors.torch

    model = trained.model
    tensors = renamed(model) if isinstance(model, GPT) else gpt2.form(trained)[1]
    packed = {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}
    return {
        **settings(trained),
        "model.safetensors": safetensors.torch.save(packed, {"format": "pt"}),
    }


def settings(trained: TrainedModel) -> dict[str, bytes]:
    """All files but the weights."""
    model, block_size = trained.model, trained.config.model.block_size
    config: dict[str, Any]
    # No token ends a text here, so a length must; a table of positions ends, and rotations do not.
    length = 500 if isinstance(model, GPT) else max(1, block_size - 1)
    if isinstance(model, GPT) and model.config.context_length is not None:
        config = imported_config(model.schema, model.context_size)
    elif isinstance(model, GPT):
        config = qwen3_config(model.schema, block_size)
    elif isinstance(model, GPT2):
        config = gpt2.settings(model)
    else:
        config = gpt2.widened(trained)[0]
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.context_size,
        "clean_up_tokenization_spaces": False,
    }
    generation_config: dict[str, Any]
    generation_config = {"do_sample": True, "temperature": 0.8, "max_new_tokens": length}
    documents = {
        "config.json": config,
        "tokenizer_config.json": tokenizer_config,
        "generation_config.json": generation_config,
    }
    template = chat_template(trained.folder)
    if template is not None:
        ends = end_of_answers(template, trained.tokenizer)
        config["eos_token_id"] = generation_config["eos_token_id"] = ends
    return {
        **({} if template is None else {"chat_template.jinja": template.encode()}),
        **{name: json.dumps(each, indent=2).encode() for name, each in documents.items()},
        "tokenizer.json": trained.tokenizer.to_json().encode(),
    }


def qwen3_config(schema: Schema, block_size: int) -> dict[str, Any]:
    """The settings of transformers' Qwen3.

    transformers reads any length through the sliding window, and it alone: vLLM and llama.cpp's
    converter ignore the window (vLLM issue 39514, llama.cpp pull request 26286), where more than a
    block at once raises the loss silently. They stop at `max_position_embeddings`, which
    transformers does not; so that is a block, in which the window changes nothing.
    """
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": schema.vocab_size,
        "hidden_size": schema.n_embd,
        "intermediate_size": schema.mlp_width,
        "num_hidden_layers": schema.n_layer,
        "num_attention_heads": schema.n_head,
        "num_key_value_heads": schema.n_kv_head,
        "head_dim": schema.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": block_size,
        "rms_norm_eps": schema.epsilon,
        "rope_theta": schema.rotary_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": schema.rotary_base},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": True,
        "sliding_window": schema.window,
        "max_window_layers": 0,
        "layer_types": ["sliding_attention"] * schema.n_layer,
        "tie_word_embeddings": schema.tied,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": "float32",
    }


def imported_config(schema: Schema, context_size: int) -> dict[str, Any]:
    """The settings of a Llama or a Qwen3 that came from elsewhere: no windows of a block."""
    config = qwen3_config(schema, context_size)
    rotary: dict[str, Any] = {"rope_type": "default", "rope_theta": schema.rotary_base}
    if schema.rotary_scaling is not None:
        factor, low, high, length = schema.rotary_scaling
        rotary |= {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": length,
        }  # fmt: skip
    windowed = schema.window is not None
    config |= {
        "rope_parameters": rotary,
        "use_sliding_window": windowed,
        "layer_types": ["sliding_attention" if windowed else "full_attention"] * schema.n_layer,
    }
    if not schema.query_key_norm:
        config |= {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "mlp_bias": False
        }  # fmt: skip
        for name in ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types"):
            del config[name]
    return config


def renamed(model: GPT) -> dict[str, Tensor]:
    """The weights under Qwen3's names; a tied table once."""
    weights = model.state_dict()
    return {names.hf: weights[ours] for ours, names in names_of(model.schema).items()}


def notes(trained: TrainedModel, _: Request, text: Text) -> list[str]:
    """What engines will give that read a Qwen3 without its windows."""
    if not isinstance(trained.model, GPT) or trained.config.model.context_length is not None:
        return []
    size, loss = trained.model.block_size, loss_in_blocks(trained, text)
    return [
        msg(
            "engines that ignore sliding_window, as vLLM does, are held to {size:,} tokens at "
            "once: {loss:.4f} nats per character, computed here",
            size=size,
            loss=loss,
        )
    ]


def engines(folder: Path, trained: TrainedModel, _: Request, __: Text) -> Iterator[Engine]:
    """transformers, as anyone would open the folder.

    Raises: ImportError where it is not installed.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    ).eval()

    @torch.no_grad()
    def logits(tokens: NDArray[np.int64]) -> NDArray[Any]:
        found: NDArray[Any] = model(torch.from_numpy(tokens)[None]).logits[0].float().numpy()
        return found

    window = min(WINDOW, trained.model.context_size)
    yield Engine(f"transformers {transformers.__version__}", logits, window, TOLERANCE)
