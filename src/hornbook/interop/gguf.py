"""GGUF: one file for llama.cpp and what is built on it, and an Ollama Modelfile beside it.

llama.cpp ignores the sliding window of a Qwen3 (pull request 26286). Step 3.5's architecture, which
it has had since February 2026, is a Qwen3 with windows when all its blocks are dense and it has no
gate: so the file gives what hornbook gives at any length. Without windows it is a Qwen3 whose
context length is a block, in which a window changes nothing.
"""

from __future__ import annotations

import json
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hornbook.interop.check import WINDOW, Engine, gpt_of, loss_in_blocks
from hornbook.interop.request import ExportError
from hornbook.pretrained.names import OUTSIDE, names_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import gguf
    import xllamacpp
    from numpy.typing import NDArray

    from hornbook.interop.check import Text
    from hornbook.interop.request import Request
    from hornbook.models.gpt import GPT
    from hornbook.models.schema import Schema
    from hornbook.runs.load import TrainedModel
    from hornbook.text.tokenizer import Tokenizer

FILE = "model.gguf"
TOLERANCE = 2e-3
# A request a position, which lists all probabilities: 5 ms for a small vocabulary.
CHECKED_TOKENS, CHECKED_NUMBERS = 1024, 2**20
# Text goes in and out as it is.
CHAT_TEMPLATE: Final = "{% for message in messages %}{{ message.content }}{% endfor %}"
NEVER_IN_TEXT: Final = b"\xff"


def files(trained: TrainedModel, request: Request) -> dict[str, bytes]:
    """The files of the folder by name."""
    model = gpt_of(trained)
    context_size = reads(model, request)
    return {
        FILE: packed(trained, model, request),
        "Modelfile": (
            f"FROM ./{FILE}\nTEMPLATE {{{{ .Prompt }}}}\n"
            f"PARAMETER num_ctx {context_size}\nPARAMETER temperature 0.8\n"
            f"PARAMETER num_predict {min(500, context_size // 2)}\n"
        ).encode(),
    }


def reads(model: GPT, request: Request) -> int:
    """The context length of the file."""
    return model.context_size if request.windows else model.block_size


def packed(trained: TrainedModel, model: GPT, request: Request) -> bytes:
    """The file's bytes; its writer knows only paths."""
    import gguf

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / FILE
        writer = gguf.GGUFWriter(path, "step35" if request.windows else "qwen3")
        writer.add_name(trained.folder.path.resolve().name)
        write_sizes(writer, model, request)
        write_tokenizer(writer, trained.tokenizer)
        kind = gguf.GGMLQuantizationType[request.weights.upper()]
        tensors = model.state_dict()
        for ours, names in names_of(model.schema).items():
            array = tensors[ours].float().cpu().numpy()
            write_tensor(writer, names.gguf, array, kind)
            if request.windows and model.schema.tied and ours == "embedding.weight":
                # Step 3.5 ties nothing.
                write_tensor(writer, OUTSIDE["logits.weight"].gguf, array, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def write_sizes(writer: gguf.GGUFWriter, model: GPT, request: Request) -> None:
    """Write the shape of the network."""
    schema: Schema = model.schema
    writer.add_context_length(reads(model, request))
    writer.add_vocab_size(schema.vocab_size)
    writer.add_block_count(schema.n_layer)
    writer.add_embedding_length(schema.n_embd)
    writer.add_feed_forward_length(schema.mlp_width)
    writer.add_head_count(schema.n_head)
    writer.add_head_count_kv(schema.n_kv_head)
    writer.add_key_length(schema.head_width)
    writer.add_value_length(schema.head_width)
    writer.add_layer_norm_rms_eps(schema.epsilon)
    writer.add_rope_freq_base(schema.rotary_base)
    if request.windows and schema.window is not None:
        writer.add_rope_dimension_count(schema.head_width)
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


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Write the vocabulary.

    Characters and bytes are split by RWKV's tokenizer, which takes the longest token that fits. It
    alone has no default end of text: with any other, llama.cpp would take token 11 for it and stop
    at a semicolon. BPE has the byte 0xFF for it, which no text contains.
    """
    if tokenizer.kind == "bpe":
        model = json.loads(tokenizer.to_json())["model"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(sorted(model["vocab"], key=model["vocab"].__getitem__))
        # An empty list is not written, and llama.cpp refuses a file without one.
        writer.add_token_merges([" ".join(pair) for pair in model["merges"]] or ["ÿ ÿ"])
        end = tokenizer.token_bytes().index(NEVER_IN_TEXT)
        writer.add_bos_token_id(end)
        writer.add_eos_token_id(end)
    else:
        writer.add_tokenizer_model("rwkv")
        writer.add_token_list([escaped(token) for token in tokenizer.token_bytes()])
    writer.add_token_types([1] * tokenizer.vocab_size)  # all of them plain text
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def escaped(token: bytes) -> str:
    """A token as RWKV's vocabularies write it."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != ord("\\") else f"\\x{byte:02x}"
        for byte in token
    )


def notes(trained: TrainedModel, request: Request, text: Text) -> list[str]:
    """What a file without windows costs."""
    if request.windows:
        return []
    size, loss = trained.model.block_size, loss_in_blocks(trained, text)
    return [
        f"without windows engines are held to {size:,} tokens at once: {loss:.4f} nats per "
        "character, computed here"
    ]


def engines(folder: Path, trained: TrainedModel, request: Request, text: Text) -> Iterator[Engine]:
    """llama.cpp's server, in this process.

    Raises: ImportError where xllamacpp is not installed; ExportError where it cannot open the file
    or splits text otherwise.
    """
    import xllamacpp

    model = gpt_of(trained)
    server = serve(folder / FILE, reads(model, request))
    passage = trained.tokenizer.decode(text.tokens)
    if tokenize(server, passage) != trained.tokenizer.encode(passage):
        raise ExportError("llama.cpp splits a text into other tokens; nothing was written")

    whole = next(i for i, each in enumerate(trained.tokenizer.token_bytes()) if is_text(each))

    def log_probs(tokens: NDArray[np.int64]) -> NDArray[Any]:
        ids, size = tokens.tolist(), model.vocab_size
        prefixes = (ids[: n + 1] for n in range(len(ids)))
        return np.stack([next_log_probs(server, each, size, whole) for each in prefixes])

    window = min(WINDOW, reads(model, request) - 1)
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
        raise ExportError(f"llama.cpp cannot open the file: {error}; nothing was written") from None


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
        raise ExportError(f"llama.cpp refuses a text: {answer}; nothing was written")
    found = np.full(vocab_size, -np.inf)
    for each in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        found[each["id"]] = each["logprob"]
    return found
