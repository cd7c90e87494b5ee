"""GGUF: one file for llama.cpp and what is built on it, and an Ollama Modelfile beside it.

llama.cpp ignores the sliding window of a Qwen3 (pull request 26286). Step 3.5's architecture, which
it has had since February 2026, is a Qwen3 with windows when all its blocks are dense and it has no
gate: so the file gives what hornbook gives at any length. Without windows it is a Qwen3 whose
context length is a block, in which a window changes nothing. Models from elsewhere are Llama, Qwen3
and GPT-2 again.
"""

from __future__ import annotations

import json
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hornbook.interop.check import WINDOW, Engine, loss_in_blocks
from hornbook.interop.gguf_tokenizer import write_tokenizer
from hornbook.interop.ollama import modelfile
from hornbook.interop.request import ExportError
from hornbook.language import msg
from hornbook.models.gpt import GPT
from hornbook.models.gpt2 import EPSILON
from hornbook.pretrained.chat import chat_template
from hornbook.pretrained.names import OUTSIDE, gguf_parts, stored
from hornbook.text.chat import marked_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    import gguf
    import xllamacpp
    from numpy.typing import NDArray

    from hornbook.config import ModelConfig
    from hornbook.interop.check import Text
    from hornbook.interop.request import Request
    from hornbook.models.schema import Schema
    from hornbook.runs.load import TrainedModel

FILE = "model.gguf"
TOLERANCE = 2e-3
# A request a position, which lists all probabilities: 5 ms for a small vocabulary.
CHECKED_TOKENS, CHECKED_NUMBERS = 1024, 2**20


def files(trained: TrainedModel, request: Request) -> dict[str, bytes]:
    """The files of the folder by name.

    Raises: ConfigError for a tokenizer that llama.cpp does not know.
    """
    lines = modelfile(trained, FILE, reads(trained, request))
    return {FILE: packed(trained, request), "Modelfile": lines.encode()}


def architecture(trained: TrainedModel, request: Request) -> str:
    """llama.cpp's name for the model."""
    model = trained.model
    if not isinstance(model, GPT):
        return "gpt2"
    if trained.config.model.context_length is None and request.windows:
        return "step35"
    return "qwen3" if model.schema.query_key_norm else "llama"


def reads(trained: TrainedModel, request: Request) -> int:
    """The context length of the file: where llama.cpp ignores a window, no more than that."""
    model = trained.model
    if not isinstance(model, GPT) or architecture(trained, request) == "step35":
        return model.context_size
    return min(model.context_size, model.schema.window or model.context_size)


def packed(trained: TrainedModel, request: Request) -> bytes:
    """The file's bytes; its writer knows only paths."""
    import gguf

    model, kind = trained.model, architecture(trained, request)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / FILE
        writer = gguf.GGUFWriter(path, kind)
        writer.add_name(trained.folder.path.resolve().name)
        writer.add_context_length(reads(trained, request))
        writer.add_vocab_size(model.vocab_size)
        if isinstance(model, GPT):
            write_sizes(writer, model.schema, windows=kind == "step35")
        else:
            write_gpt2_sizes(writer, trained.config.model)
        write_tokenizer(writer, trained.tokenizer, chat_template(trained.folder))
        precision = gguf.GGMLQuantizationType[request.weights.upper()]
        parts = gguf_parts(trained.config.model, permuted=kind == "llama")
        for name, tensor in stored(parts, model.state_dict()):
            array = tensor.float().cpu().contiguous().numpy()
            write_tensor(writer, name, array, precision)
            tied = isinstance(model, GPT) and model.schema.tied
            if kind == "step35" and tied and name == OUTSIDE["embedding.weight"].gguf:
                # Step 3.5 ties nothing.
                write_tensor(writer, OUTSIDE["logits.weight"].gguf, array, precision)
        if isinstance(model, GPT) and model.schema.rotary_scaling is not None:
            write_tensor(writer, "rope_freqs.weight", slowed(model.schema), precision)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def slowed(schema: Schema) -> NDArray[Any]:
    """By how much each rotation is slower than without scaling, as llama.cpp has it: [D/2]."""
    D = schema.head_width
    plain = schema.rotary_base ** -(torch.arange(0, D, 2) / D)
    scaling = schema.rotary_scaling
    return (plain / (plain if scaling is None else scaling.slowed(plain))).numpy()


def write_gpt2_sizes(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """Write the shape of a GPT-2."""
    writer.add_block_count(config.n_layer)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.mlp_width or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.norm_epsilon or EPSILON)


def write_sizes(writer: gguf.GGUFWriter, schema: Schema, *, windows: bool) -> None:
    """Write the shape of a GPT, with its windows or without."""
    writer.add_block_count(schema.n_layer)
    writer.add_embedding_length(schema.n_embd)
    writer.add_feed_forward_length(schema.mlp_width)
    writer.add_head_count(schema.n_head)
    writer.add_head_count_kv(schema.n_kv_head)
    writer.add_key_length(schema.head_width)
    writer.add_value_length(schema.head_width)
    writer.add_layer_norm_rms_eps(schema.epsilon)
    writer.add_rope_freq_base(schema.rotary_base)
    writer.add_rope_dimension_count(schema.head_width)
    if windows and schema.window is not None:
        writer.add_rope_freq_base_swa(schema.rotary_base)
        writer.add_sliding_window(schema.window)
        writer.add_sliding_window_pattern([True] * schema.n_layer)
        # Step 3.5 mixes experts, except in its first blocks: here in none.
        writer.add_leading_dense_block_count(schema.n_layer)
        writer.add_expert_feed_forward_length(schema.mlp_width)


def write_tensor(
    writer: gguf.GGUFWriter, name: str, array: NDArray[Any], kind: gguf.GGMLQuantizationType
) -> None:
    """Write one weight: gains in float32, and rows that q8_0's groups of 32 do not fit in f16."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if kind == kinds.Q8_0 and array.shape[-1] % 32:
        kind = kinds.F16
    if array.ndim == 1:
        kind = kinds.F32
    writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)


def notes(trained: TrainedModel, request: Request, text: Text) -> list[str]:
    """What a file without windows costs."""
    if request.windows:
        return []
    size, loss = trained.model.block_size, loss_in_blocks(trained, text)
    return [
        msg(
            "without windows engines are held to {size:,} tokens at once: {loss:.4f} nats per "
            "character, computed here",
            size=size,
            loss=loss,
        )
    ]


def engines(folder: Path, trained: TrainedModel, request: Request, text: Text) -> Iterator[Engine]:
    """llama.cpp's server, in this process.

    Raises: ImportError where xllamacpp is not installed; ExportError where it cannot open the file
    or splits text otherwise.
    """
    import xllamacpp

    model = trained.model
    server = serve(folder / FILE, reads(trained, request))
    passage = trained.tokenizer.decode(text.tokens)
    # llama.cpp takes the text of a special token for the token.
    if tokenize(server, passage) != marked_ids(trained.tokenizer, passage):
        raise ExportError(msg("llama.cpp splits a text into other tokens; nothing was written"))

    whole = next(i for i, each in enumerate(trained.tokenizer.token_bytes()) if is_text(each))

    def log_probs(tokens: NDArray[np.int64]) -> NDArray[Any]:
        ids, size = tokens.tolist(), model.vocab_size
        prefixes = (ids[: n + 1] for n in range(len(ids)))
        return np.stack([next_log_probs(server, each, size, whole) for each in prefixes])

    window = min(WINDOW, reads(trained, request) - 1)
    name = f"llama.cpp (xllamacpp {xllamacpp.__version__}, {request.weights})"
    exact = request.weights == "f32"
    most = max(16, min(CHECKED_TOKENS, CHECKED_NUMBERS // model.vocab_size))
    yield Engine(name, log_probs, window, TOLERANCE if exact else np.inf, most)


def serve(path: Path, context_size: int) -> xllamacpp.Server:
    """llama.cpp's server for a file, with float32 keys and values.

    Raises: ExportError where it cannot open the file.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx = context_size
    settings.n_parallel = 1
    settings.warmup = False
    settings.fit_params = False
    settings.verbosity = 0
    # Exact attention: with a cache in float16, or its own fused kernel, it is 0.006 off; so 0.0001.
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    # Its threads spin: on busy cores two took 130 ms a request, one takes 5.
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    try:
        return xllamacpp.Server(settings)
    except RuntimeError as error:
        raise ExportError(
            msg("llama.cpp cannot open the file: {error}; nothing was written", error=error)
        ) from None


def tokenize(server: xllamacpp.Server, text: str) -> list[int]:
    """The ids of a text by llama.cpp."""
    request = urllib.request.Request(  # noqa: S310 (its own address on this machine)
        f"{server.listening_address}/tokenize",
        json.dumps({"content": text}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        found: list[int] = json.load(answer)["tokens"]
        return found


def is_text(token: bytes) -> bool:
    """Whether a token is no part of a character."""
    try:
        return bool(token.decode())
    except UnicodeDecodeError:
        return False


def next_log_probs(
    server: xllamacpp.Server, tokens: list[int], vocab_size: int, drawn: int
) -> NDArray[Any]:
    """The log-probability of every token after a text: [V].

    The token `drawn` is preferred: the server gives no probabilities with a part of a character,
    and those that it gives are from before such preferences.
    """
    answer = server.handle_completions(
        {
            "prompt": tokens,
            "n_predict": 1,
            "n_probs": vocab_size,
            "logit_bias": [[drawn, 1000.0]],
            "cache_prompt": True,
        }
    )
    if "choices" not in answer:
        raise ExportError(
            msg("llama.cpp refuses a text: {answer}; nothing was written", answer=answer)
        )
    found = np.full(vocab_size, -np.inf)
    for each in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        found[each["id"]] = each["logprob"]
    return found
