"""The writer of a run: its model opened for writing alone, by the fastest means that are here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hornbook.infer import generate
from hornbook.runs import run
from hornbook.config import Config, SamplingConfig, load_config
from hornbook.errors import CheckpointError, ConfigError, DataError
from hornbook.kernels import (
    Decoder,
    JointDecoder,
    NativeUnavailableError,
    cache_bytes,
    joint_weight_names,
    weight_names,
)
from hornbook.text.corpus import read_corpus
from hornbook.text.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from hornbook.kernels import Precision, Weights

# Texts written together. A pass of decoder.c takes 64 tokens, so more at once gain nothing.
MOST_ROWS = 64
CACHE_BYTES = 1 << 30
MEASURED_BLOCKS = 16


@dataclass(frozen=True)
class Writer:
    """A run's model as a reader of up to `rows` texts, with its tokenizer.

    `why` says what it runs on, `remark` what the user should know of it ("" for nothing).
    """

    reader: generate.Reader
    tokenizer: Tokenizer
    config: Config
    rows: int
    why: str
    remark: str = ""

    def streams(
        self,
        prompt: str = "",
        *,
        seeds: Sequence[int] = (0,),
        max_new_tokens: int = 500,
        stop: Sequence[str] = (),
        **sampling: Any,
    ) -> list[Iterator[str]]:
        """Texts that go on from a prompt, at most `rows`, in pieces; see `generate.streams`.

        Raises: UnknownCharacterError, ConfigError.
        """
        return generate.streams(
            self.reader,
            self.tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=SamplingConfig(**sampling),
            stop=stop,
            seeds=seeds,
        )


def open_writer(
    path: str | os.PathLike[str],
    *,
    which: Literal["best", "last"] = "best",
    weights: Precision | Literal["auto"] = "auto",
    rows: int = 1,
) -> Writer:
    """Open a run for writing up to `rows` texts side by side, fewer where memory sets a bound.

    A GPT is decoded in C, with counts or without, and torch is not even imported; without a C
    compiler, and for the other rungs, torch does it. With int8 weights, which a GPT alone has, the
    remark says what they cost in loss.
    Raises: CheckpointError when the run is missing, unfinished or damaged; ConfigError for weights
    in a precision that only the C decoder has, where that cannot be had.
    """
    folder = run.open_run(path)
    config = load_config(folder.config)
    why = f"the {config.model.kind} model is written by torch"
    if config.model.spec.c_kernels and weights == "int8" and config.model.with_counts:
        why = "what they would cost a network joined with counts in loss is not measured"
    elif config.model.spec.c_kernels:
        try:
            return open_native(folder, config, which, weights, rows)
        except NativeUnavailableError as error:
            why = str(error)
    if weights not in ("auto", "float32"):
        raise ConfigError(f"weights in {weights}: {why}; use float32")
    trained = run.load(path, which=which)
    reader = generate.reader_of(trained.model)
    return Writer(reader, trained.tokenizer, config, min(rows, MOST_ROWS), why)


def open_native(
    folder: run.RunFolder,
    config: Config,
    which: Literal["best", "last"],
    weights: Precision | Literal["auto"],
    rows: int,
) -> Writer:
    """A writer by the C decoder.

    Raises: CheckpointError; NativeUnavailableError.
    """
    tokenizer = load_tokenizer(folder.tokenizer)
    arrays = run.load_arrays(folder, which).model
    # One layer more than there are arrays is wrong already, however many more there should be.
    names = weight_names(min(config.model.n_layer, len(arrays) + 1))
    counted = run.load_counts(folder, tokenizer) if config.model.with_counts else None
    if counted:
        names = joint_weight_names(names)
    if arrays.keys() != set(names):
        raise NativeUnavailableError("this run holds more or less than a GPT's weights")
    if not counted and len(arrays["logits.weight"]) != tokenizer.vocab_size:
        raise CheckpointError(f"{folder.path}: the weights do not fit tokenizer.json")
    rows = max(1, min(rows, MOST_ROWS, CACHE_BYTES // cache_bytes(config.model)))
    try:
        if counted:
            decoder = JointDecoder(config.model, arrays, counted, precision=weights, rows=rows)
        else:
            decoder = Decoder(config.model, arrays, precision=weights, rows=rows)
    except CheckpointError as error:
        raise CheckpointError(f"{folder.path}: {error}") from None
    why = f"in C, weights in {decoder.precision}, threads: {decoder.threads}"
    remark = "" if weights != "int8" else cost_of(weights, folder, config, tokenizer, arrays)
    return Writer(decoder, tokenizer, config, rows, why, remark)


def cost_of(
    precision: Precision,
    folder: run.RunFolder,
    config: Config,
    tokenizer: Tokenizer,
    arrays: Weights,
) -> str:
    """What weights in a precision cost in loss, measured on the run's validation text."""
    from hornbook.text.dataset import prepare

    try:
        corpus = read_corpus(config.data.corpus, encoding=config.data.encoding)
        run.check_same_text(corpus, folder)
    except (DataError, CheckpointError) as error:
        return f"what weights in {precision} cost in loss was not measured: {error}"
    tokens = prepare(corpus, config.data, tokenizer).validation
    blocks_RT = spread_blocks(tokens, config.model.block_size)
    exact, loss = (
        loss_nats(Decoder(config.model, arrays, precision=each, rows=len(blocks_RT)), blocks_RT)
        for each in ("float32", precision)
    )
    return (
        f"weights in {precision}: loss {loss:.4f} nats a token, {exact:.4f} in float32 "
        f"({loss - exact:+.4f}), over {blocks_RT[:, 1:].size:,} tokens of the validation text"
    )


def spread_blocks(tokens: NDArray[Any], block_size: int) -> NDArray[np.int32]:
    """Evenly spaced blocks of a text and one token after each: [N] -> [R, T + 1]."""
    length = min(block_size, len(tokens) - 1)
    starts = np.linspace(0, len(tokens) - length - 1, MEASURED_BLOCKS).astype(int)
    return np.stack([tokens[start : start + length + 1] for start in starts]).astype(np.int32)


def loss_nats(decoder: Decoder, blocks_RT: NDArray[np.int32]) -> float:
    """The mean cross-entropy of each block's tokens but the first."""
    logits_RTV = decoder.read_all(blocks_RT[:, :-1]).astype(np.float64)
    logits_RTV -= logits_RTV.max(axis=-1, keepdims=True)
    chosen_RT1 = np.take_along_axis(logits_RTV, blocks_RT[:, 1:, None], axis=-1)
    return float(np.mean(np.log(np.exp(logits_RTV).sum(axis=-1)) - chosen_RT1[..., 0]))
