"""Opens a run for generation, by the fastest decoder that works here: a GPT without torch."""

import os
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hornbook.config import Config
from hornbook.errors import CheckpointError, ConfigError, DataError, reason
from hornbook.infer.decoder import MOST_ROWS
from hornbook.infer.engine import Engine
from hornbook.infer.hidden_states import HiddenStates
from hornbook.infer.mixing_decoder import MixingDecoder
from hornbook.infer.native_decoder import (
    NativeDecoder,
    Precision,
    Weights,
    cache_bytes,
    chosen_precision,
)
from hornbook.infer.native_mixture import NativeMixture, network_weights
from hornbook.kernels import NativeUnavailableError
from hornbook.language import msg
from hornbook.models.schema import Schema
from hornbook.runs.folder import RunFolder, open_run, run_text, run_tokenizer
from hornbook.runs.load import load, load_arrays, load_counts, load_mixer
from hornbook.text.tokenizer import Tokenizer

CACHE_BYTES = 1 << 30
MEASURED_BLOCKS = 16


def open_engine(
    path: str | os.PathLike[str],
    *,
    which: Literal["best", "last"] = "best",
    weights: Precision | Literal["auto"] = "auto",
    rows: int = 1,
) -> Engine:
    """Open a run for generating up to `rows` texts together, fewer where memory is short.

    A GPT, with n-grams or without, runs in C, and torch is not imported. Other models, and all
    where there is no C compiler, run in PyTorch. With int8 weights, which only a GPT without
    n-grams has, the engine's remark says what they cost in loss.
    Raises: CheckpointError when the run is missing, unfinished or damaged; ConfigError for a
    precision that only the C decoder has, where it is not available.
    """
    folder = open_run(path)
    config = folder.settings()
    why = msg("the {kind} model runs in PyTorch", kind=config.model.kind)
    if config.model.spec.c_kernels and weights == "int8" and config.model.family != "network":
        why = msg("int8's cost in loss is not measured for a network with n-grams")
    elif config.model.lora_rank is not None:
        why = msg("the factors of LoRA are merged by PyTorch")
    elif config.model.spec.c_kernels:
        try:
            return open_native(folder, config, which, weights, rows)
        except NativeUnavailableError as error:
            why = reason(error)
    if weights not in ("auto", "float32"):
        raise ConfigError(msg("weights in {weights}: {why}; use float32", weights=weights, why=why))
    from hornbook.infer.torch_decoder import fastest_decoder

    trained = load(path, which=which)
    decoder = fastest_decoder(trained.model, rows=max(1, min(rows, MOST_ROWS)))
    return Engine(decoder, trained.tokenizer, why=why)


def open_native(
    folder: RunFolder,
    config: Config,
    which: Literal["best", "last"],
    weights: Precision | Literal["auto"],
    rows: int,
) -> Engine:
    """The engine of a GPT in C.

    Raises: CheckpointError; NativeUnavailableError.
    """
    tokenizer = run_tokenizer(folder)
    found = load_arrays(folder, which)
    arrays, step = found.model, found.step
    schema = Schema.of(config.model, tokenizer.vocab_size)
    context_size = config.model.context_size
    row_bytes = cache_bytes(schema, context_size, chosen_precision(arrays, weights))
    rows = max(1, min(rows, MOST_ROWS, CACHE_BYTES // row_bytes))
    size = {"context_size": context_size, "rows": rows}
    try:
        if config.model.with_counts:
            ngram_model = load_counts(folder, tokenizer)
            decoder = NativeMixture(schema, arrays, ngram_model, precision=weights, **size)
        else:
            decoder = NativeDecoder(schema, arrays, precision=weights, **size)
        mixer = load_mixer(folder, tokenizer, step) if config.model.with_mixer else None
    except CheckpointError as error:
        raise CheckpointError(msg("{path}: {error}", path=folder.path, error=error)) from None
    why = msg(
        "in C, weights in {precision}, threads: {threads}",
        precision=decoder.precision,
        threads=decoder.threads,
    )
    remark = "" if weights != "int8" else cost_of(weights, folder, config, tokenizer, arrays)
    mixed = MixingDecoder(decoder, mixer) if mixer else decoder
    return Engine(mixed, tokenizer, why=why, remark=remark)


def open_hidden_states(
    path: str | os.PathLike[str], *, which: Literal["best", "last"] = "best"
) -> HiddenStates | None:
    """The last hidden states of a run's GPT, or of the GPT of a mixture; None for other models.

    Raises: CheckpointError; NativeUnavailableError.
    """
    folder = open_run(path)
    model = folder.settings().model
    if not model.spec.c_kernels:
        return None
    weights = load_arrays(folder, which).model
    if model.with_counts:
        weights = network_weights(weights)
    schema = Schema.of(model, run_tokenizer(folder).vocab_size)
    return HiddenStates(schema, weights, context_size=model.context_size)


def cost_of(
    precision: Precision, folder: RunFolder, config: Config, tokenizer: Tokenizer, arrays: Weights
) -> str:
    """What a precision of the weights costs in loss, measured on the run's validation text."""
    from hornbook.text.dataset import prepare

    try:
        corpus = run_text(folder, config)
    except (DataError, CheckpointError) as error:
        return msg(
            "the cost of {precision} weights in loss was not measured: {error}",
            precision=precision,
            error=error,
        )
    tokens = prepare(corpus, config.data, tokenizer).validation
    blocks_RT = spread_blocks(tokens, config.model.block_size)
    schema = Schema.of(config.model, tokenizer.vocab_size)
    size = {"context_size": config.model.context_size, "rows": len(blocks_RT)}
    exact, loss = (
        loss_nats(NativeDecoder(schema, arrays, precision=each, **size), blocks_RT)
        for each in ("float32", precision)
    )
    return msg(
        "weights in {precision}: loss {loss:.4f} nats a token, {exact:.4f} in float32 "
        "({more:+.4f}), over {tokens:,} tokens of the validation text",
        precision=precision,
        loss=loss,
        exact=exact,
        more=loss - exact,
        tokens=blocks_RT[:, 1:].size,
    )


def spread_blocks(tokens: NDArray[Any], block_size: int) -> NDArray[np.int32]:
    """Evenly spaced blocks of a text, each with the token that follows: [N] -> [R, T + 1]."""
    length = min(block_size, len(tokens) - 1)
    starts = np.linspace(0, len(tokens) - length - 1, MEASURED_BLOCKS).astype(int)
    return np.stack([tokens[start : start + length + 1] for start in starts]).astype(np.int32)


def loss_nats(decoder: NativeDecoder, blocks_RT: NDArray[np.int32]) -> float:
    """The mean cross-entropy of all tokens but each block's first."""
    logits_RTV = decoder.forward_all(blocks_RT[:, :-1]).astype(np.float64)
    logits_RTV -= logits_RTV.max(axis=-1, keepdims=True)
    chosen_RT1 = np.take_along_axis(logits_RTV, blocks_RT[:, 1:, None], axis=-1)
    return float(np.mean(np.log(np.exp(logits_RTV).sum(axis=-1)) - chosen_RT1[..., 0]))
