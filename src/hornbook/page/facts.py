"""What a page says of its model, and what its script must know: all but the numbers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from hornbook import __version__
from hornbook.infer.sample import first_line
from hornbook.infer.text import start_token
from hornbook.models.schema import Schema
from hornbook.page.kept import Kept
from hornbook.runs.result import kept_figures

if TYPE_CHECKING:
    from hornbook.runs.load import TrainedModel
    from hornbook.text.dataset import Dataset
    from hornbook.text.tokenizer import Tokenizer

# A piece of the validation text, to try the model on.
PIECE_TOKENS = 600
LAYER_NORM_EPSILON = 1e-5


def facts(trained: TrainedModel, kept: Kept, text: Dataset | None) -> dict[str, Any]:
    """What the page says of the model, and what its script must know."""
    config, tokenizer = trained.config.model, trained.tokenizer
    figures = kept_figures(trained.folder)
    baselines = figures.get("baselines_nats_per_char")
    return {
        "version": __version__,
        "name": trained.folder.path.resolve().name,
        "corpus": trained.config.data.corpus.rsplit("/", 1)[-1],
        "kind": config.model,
        "joined": config.with_counts and not kept.network_only,
        "parameters": trained.model.parameter_count,
        "nats_per_char": figures.get("val_nats_per_char"),
        "baselines": baselines if isinstance(baselines, dict) else {},
        "context": config.context_size,
        "shape": shape_of(trained),
        "tokenizer": vocabulary(tokenizer, newline_of(tokenizer, text)),
        "start": start_token(tokenizer),
        "opening": ""
        if text is None or kept.network_only
        else first_line(tokenizer, text.validation),
        "piece": "" if kept.network_only else piece_of(tokenizer, text),
        "frequencies": frequencies(text),
        "kept": {
            "precision": kept.precision,
            "n_grams": kept.n_grams,
            "all_n_grams": kept.all_n_grams,
            "network_only": kept.network_only,
            "mixer_left_out": kept.mixer_left_out,
            "exact": kept.is_exact,
            "loss": kept.loss,
            "full_loss": kept.full_loss,
            "measured_tokens": kept.measured_tokens,
        },
    }


def shape_of(trained: TrainedModel) -> dict[str, Any]:
    """The sizes that the forward pass needs."""
    config = trained.config.model
    shape: dict[str, Any] = {
        "block_size": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "epsilon": LAYER_NORM_EPSILON,
    }
    if config.model == "gpt":
        schema = Schema.of(config, trained.tokenizer.vocab_size)
        shape |= {
            "window": schema.window,
            "epsilon": schema.epsilon,
            "rotary_base": schema.rotary_base,
            "mlp_width": schema.mlp_width,
        }
    return shape


def vocabulary(tokenizer: Tokenizer, newline: str) -> dict[str, Any]:
    """The tokenizer, as `tokenizer.js` reads it."""
    spelled = tokenizer.token_bytes()
    if tokenizer.kind == "char":
        tokens: list[Any] = [token.decode() for token in spelled]
    else:
        tokens = [list(token) for token in spelled]
    merges = json.loads(tokenizer.to_json())["model"].get("merges", [])
    number = {token: i for i, token in enumerate(json.loads(tokenizer.to_json())["model"]["vocab"])}
    triples = [[number[a], number[b], number[a + b]] for a, b in merges]
    return {"kind": tokenizer.kind, "vocabulary": tokens, "merges": triples, "newline": newline}


def newline_of(tokenizer: Tokenizer, text: Dataset | None) -> str:
    """The line end that the model writes."""
    if tokenizer.text_has_cr is False:
        return "\n"
    ends = [end for end in ("\n", "\r") if tokenizer.knows(end)]
    if len(ends) < 2 or text is None:
        return ends[0] if ends else "\n"
    piece = tokenizer.decode(text.validation[:10_000])
    return "\r\n" if piece.count("\r\n") > piece.count("\n") / 2 else "\n"


def piece_of(tokenizer: Tokenizer, text: Dataset | None) -> str:
    """The first whole lines of the validation text."""
    if text is None:
        return ""
    lines = tokenizer.decode(text.validation[:PIECE_TOKENS]).splitlines(keepends=True)
    return "".join(lines[1:-1] or lines).strip()


def frequencies(text: Dataset | None) -> list[float]:
    """The share of each token in the training text, to 6 digits."""
    if text is None:
        return []
    counts = np.zeros(text.tokenizer.vocab_size, np.int64)
    for start in range(0, len(text.train), 1 << 20):
        counts += np.bincount(text.train[start : start + (1 << 20)], minlength=len(counts))
    return [float(f"{share:.6g}") for share in (counts + 1) / (counts.sum() + len(counts))]
