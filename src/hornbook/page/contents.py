"""What a page holds of a run, chosen to fit a size, with what that costs in loss."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from hornbook.errors import ConfigError, HornbookError, command
from hornbook.eval.loss import losses, per_char
from hornbook.kernels import NativeUnavailableError
from hornbook.language import msg
from hornbook.models.mixer import Mixer
from hornbook.models.mixing import Mixing
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.ngram import NGramLanguageModel
from hornbook.models.registry import build, use_ngram_kernels
from hornbook.ngram.counting import Integers
from hornbook.ngram.model import NGramModel, shortest_useful_match
from hornbook.page.facts import facts
from hornbook.page.kept import DEFAULT_BYTES, Kept
from hornbook.page.ngrams import (
    BYTES_PER_NGRAM,
    EXACT_BYTES_PER_NGRAM,
    MOST_RANKED,
    add_tables,
    in_bytes,
    occurrences,
    prune,
    selected,
)
from hornbook.page.packing import Array, Pack, Precision, rounded

if TYPE_CHECKING:
    from hornbook.models.language_model import LanguageModel
    from hornbook.runs.load import TrainedModel
    from hornbook.text.dataset import Dataset

# Browsers read more, but slowly, and mail does not carry it.
MOST_BYTES = 64_000_000
# What a weight takes in the page, compressed and in base64 (measured on GPTs of 0.1 to 2 million
# parameters).
WEIGHT_BYTES: dict[Precision, float] = {"float32": 4.8, "bfloat16": 2.2, "int8": 1.25}
# N-grams beside a network have at least this share of a page.
NGRAM_SHARE = 0.4
# Scripts, styles and the vocabulary.
FIXED_BYTES = 200_000
# Of a page's size n-grams have this share, even where the rest is larger than it should be.
LEAST_NGRAM_SHARE = 0.1
# Of a page's size a mixer, with its text, may take this share: tiny Shakespeare's takes 0.63.
MIXER_SHARE = 2 / 3
# The page counts a mixer's text when it is opened, so many tokens at most.
MOST_MIXED = 2_000_000
# The loss is measured on the first validation tokens: so many, and fewer of a large model, which
# takes a second for a thousand tokens with ten million parameters.
MEASURED_TOKENS, FEWEST_MEASURED, MEASURED_WORK = 8_192, 1_024, 1e10


def gather(
    trained: TrainedModel,
    *,
    size: int = DEFAULT_BYTES,
    weights: Precision | Literal["auto"] = "auto",
    network_only: bool = False,
    dataset: Dataset | None = None,
) -> tuple[dict[str, Any], bytes, Kept]:
    """What the page's script reads: facts, numbers, and what was kept of the model.

    `dataset` is the run's text, where it was read already.
    Raises: ConfigError for a model that does not fit.
    """
    whole = trained.model
    model = whole.network if isinstance(whole, Mixing) else whole
    mixer = whole.mixer if isinstance(whole, Mixing) else None
    trained = replace(trained, model=model)
    counted = ngrams_of(model)
    network = network_weights(model)
    held = mixer_arrays(mixer, most=MIXER_SHARE * size) if mixer and not network_only else {}
    mixed = packed_bytes(held)
    precision = precision_for(
        network, size - mixed, weights, beside=counted is not None and not network_only
    )
    numbers = sum(array.size for array in network.values())
    taken = numbers * WEIGHT_BYTES[precision]
    check_fits(trained, numbers, taken, network_only=network_only)
    text = text_of(trained) if dataset is None else dataset
    taken += mixed
    tables, exact, stood = None if network_only else counted, True, list[Integers]()
    if tables is not None:
        if text is not None and tables.n_grams <= MOST_RANKED:
            counted_tokens = trained.config.model.counted_tokens
            stood = occurrences(tables, np.asarray(text.train[-counted_tokens:]))
        room = max(size - taken - FIXED_BYTES, LEAST_NGRAM_SHARE * size)
        exact = tables.n_grams * EXACT_BYTES_PER_NGRAM <= room
        if not exact and tables.n_grams * BYTES_PER_NGRAM > room:
            chosen = prune(tables, int(room / BYTES_PER_NGRAM))
            tables = selected(tables, chosen)
            stood = [each[mask] for each, mask in zip(stood, chosen, strict=False)]
        tables = tables if exact else in_bytes(tables)
    if network_only:
        beside = "network." if trained.config.model.with_counts else ""
        network = {n.removeprefix(beside): a for n, a in network.items() if n.startswith(beside)}
    pack = Pack()
    pack.add_weights(network, precision)
    if tables is not None:
        add_tables(pack, tables, stood, exact=exact)
    for name, array in held.items():
        pack.add_numbers(f"mixer.{name}", array)
    kept = Kept(
        precision=precision,
        n_grams=0 if tables is None else tables.n_grams,
        all_n_grams=0 if counted is None else counted.n_grams,
        exact_n_grams=exact,
        network_only=network_only,
        mixed_tokens=len(held["text"]) if held else 0,
        mixer_left_out=mixer is not None and not held,
    )
    if text is not None:
        found = whole if kept.is_exact else as_kept(trained, rounded(network, precision), tables)
        if held and mixer and not kept.is_exact:
            found = Mixing(found, mixer)
        kept = measured(kept, trained, text, whole, found)
    about = facts(trained, kept, text) | {"arrays": pack.index, "ngrams": None, "mixer": None}
    if tables is not None:
        about["ngrams"] = {
            "order": counted.order if counted else 0,
            "vocabulary": tables.vocab_size,
            "shortest": shortest_useful_match(tables.vocab_size),
            "rest_is_uniform": tables.smoothing == "add-k",
        }
    if held and mixer:
        about["mixer"] = {
            "line_bits": mixer.line_bits,
            "counter_bits": mixer.counter_bits,
            "shortest": list(mixer.shortest),
            "tokens": kept.mixed_tokens,
        }
    return about, pack.compressed(), kept


def check_fits(trained: TrainedModel, numbers: int, n_bytes: float, *, network_only: bool) -> None:
    """Raises: ConfigError for a model that a page cannot run, of so many parameters and bytes."""
    serve = command("serve", trained.folder.path)
    if trained.config.model.context_length is not None:
        raise ConfigError(
            msg(
                "a page runs the models of hornbook's own shapes, and this one's came from "
                "elsewhere; use {serve}",
                serve=serve,
            )
        )
    if network_only and not numbers:
        raise ConfigError(msg("--network-only: this model is n-grams and nothing else"))
    if n_bytes > MOST_BYTES:
        raise ConfigError(
            msg(
                "a page of {numbers:,} parameters would take {size:,.0f} MB, and browsers are "
                "slow above {most:.0f} MB; use {serve}",
                numbers=numbers,
                size=n_bytes / 1e6,
                most=MOST_BYTES / 1e6,
                serve=serve,
            )
        )


def mixer_arrays(mixer: Mixer, *, most: float) -> dict[str, Array]:
    """What the page needs of a mixer, whose tables it makes anew from the text; none if too much.

    `most` are the bytes that it may take.
    """
    if len(mixer.text) > MOST_MIXED:
        return {}
    found: dict[str, Array] = {
        "children": mixer.tree.child.ravel().astype(np.uint32),
        "folded": mixer.folded.astype(np.uint32),
        "kinds": mixer.kind.astype(np.uint8),
        "text": mixer.text.astype(np.uint8 if mixer.vocab_size <= 256 else np.uint32),
        "weights": in_fewer_bytes(mixer),
    }
    return found if packed_bytes(found) <= most else {}


def in_fewer_bytes(mixer: Mixer) -> Array:
    """A mixer's weights with zeros for their last bits, which take no place once compressed.

    Sums of squared gradients only scale steps. What follows are probabilities: those near 1 need
    every bit.
    """
    found, squares = mixer.weights.copy(), mixer.squares
    found[: squares.start] = rounded_bits(found[: squares.start], 8)
    found[squares] = rounded_bits(found[squares], 12)
    return found


def rounded_bits(array: Array, bits: int) -> Array:
    """Float32 numbers, rounded so that the last bits are 0."""
    words = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((words + (1 << bits - 1)) >> bits << bits).view(np.float32)


def packed_bytes(arrays: Mapping[str, Array]) -> float:
    """What arrays take in the page, compressed and in base64."""
    pack = Pack()
    for name, array in arrays.items():
        pack.add_numbers(name, array)
    return len(pack.compressed()) * 4 / 3


def ngrams_of(model: LanguageModel) -> NGramModel | None:
    """A model's n-grams, where it has some."""
    found = model.counts if isinstance(model, GPTWithCounts) else model
    return found.ngram_model() if isinstance(found, NGramLanguageModel) else None


def network_weights(model: LanguageModel) -> dict[str, Array]:
    """A model's weights by name; none for n-grams."""
    return {
        name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()
    }


def precision_for(
    network: Mapping[str, Array], size: float, asked: Precision | Literal["auto"], *, beside: bool
) -> Precision:
    """The precision asked for, or the most exact that fits."""
    if asked != "auto":
        return asked
    numbers = sum(array.size for array in network.values())
    room = size * (1 - NGRAM_SHARE if beside else 1)
    kinds: tuple[Precision, ...] = ("float32", "bfloat16")
    return next((kind for kind in kinds if numbers * WEIGHT_BYTES[kind] <= room), "int8")


def text_of(trained: TrainedModel) -> Dataset | None:
    """The run's text, where it is at hand and unchanged."""
    if "://" in trained.config.data.corpus:  # it would be downloaded
        return None
    try:
        return trained.dataset()
    except HornbookError:
        return None


def measured(
    kept: Kept,
    trained: TrainedModel,
    text: Dataset,
    whole: LanguageModel,
    found: LanguageModel,
) -> Kept:
    """The losses of the run's whole model and of the page's, `found`, on the same tokens."""
    size = trained.config.model.context_size
    affordable = int(MEASURED_WORK / max(1, trained.model.parameter_count))
    most = min(MEASURED_TOKENS, max(FEWEST_MEASURED, affordable))
    tokens = text.validation[: most + 1]
    scale = per_char(trained.tokenizer, tokens)

    def loss(model: LanguageModel) -> float:
        return float(losses(model, tokens, block_size=min(size, 1024)).mean()) * scale

    full = loss(whole)
    own = full if found is whole else loss(found)
    return replace(kept, loss=own, full_loss=full, measured_tokens=len(tokens) - 1)


def as_kept(
    trained: TrainedModel, network: Mapping[str, Array], tables: NGramModel | None
) -> LanguageModel:
    """The model that the page computes."""
    config = trained.config.model
    if tables is None and config.with_counts:
        config = replace(config, with_counts=False)
    model = build(config, trained.tokenizer.vocab_size, tables)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in network.items()})
    with suppress(NativeUnavailableError):
        use_ngram_kernels(model)
    return model.eval()
