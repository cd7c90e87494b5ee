"""Reads a text with a model and keeps what is seen on the way.

Shapes in names: L layers, T time, C n_embd, V vocabulary.
"""

import re

import numpy as np
import torch
from torch import Tensor

from hornbook.errors import ConfigError, DataError
from hornbook.infer.text import start_token
from hornbook.language import msg
from hornbook.lens.anatomy import Activations, Anatomy
from hornbook.lens.attribution import attribute
from hornbook.lens.registry import anatomy_of, unmixed
from hornbook.lens.seen import Floats, Ids, Seen, Vote
from hornbook.lens.tape import Tape, record
from hornbook.lens.votes import array, integers, joined_votes, mixer_vote, ngram_vote
from hornbook.models.language_model import LanguageModel
from hornbook.models.mixing import Mixing
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.ngram import NGramLanguageModel
from hornbook.ngram.model import MIN_PROB
from hornbook.text.arrays import Tokens
from hornbook.text.tokenizer import Tokenizer

MOST_BYTES = 10**9
BYTES = re.compile("[\udc80-\udcff]")  # as surrogateescape decodes them


def look(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: str,
    *,
    token: str | None = None,
    train: Tokens | None = None,
) -> Seen:
    """Read a text with a model; see `Seen` for what there is to look at.

    `token` is whose logit is attributed; by default the one that came. `train` are the tokens in
    which contexts of n-grams are counted. An empty text stands for the end of a line.
    Raises: UnknownCharacterError; DataError for a text that is too long; ConfigError for a `token`
    that is not one token.
    """
    text, _ = tokenizer.fit(text)
    ids = tokenizer.encode(text) or [start_token(tokenizer)]
    chosen = None if token is None else token_id(tokenizer, token)
    anatomy = anatomy_of(model)
    check_length(model, anatomy, len(ids))
    idx_T = torch.tensor(ids, device=model.device)
    parts, joined = anatomy.parts(), unmixed(model)
    if isinstance(joined, GPTWithCounts):
        parts += [joined.recent, joined.trust, joined.network.logits]
    if joined is not model:
        parts += [joined]
    logits_TV, tape = record(model, parts, idx_T)
    targets_T = logits_TV.argmax(-1) if chosen is None else torch.full_like(idx_T, chosen)
    if chosen is None:
        targets_T[:-1] = idx_T[1:]
    seen = anatomy.activations(tape)
    votes = voted(model, tape, idx_T, logits_TV, train)
    with torch.no_grad():
        stream = residual_stream(seen, anatomy.n_layer)
        lens = [read_out(anatomy, x_TC).log_softmax(-1) for x_TC in stream[1:]]
        added: Activations = {}
        if stream:
            added = attribute(anatomy.writes(seen), stream[-1], anatomy, targets_T)
    components = {name: array(value_T) for name, value_T in added.items()}
    components |= counted(votes, integers(targets_T))
    if joined is not model:
        moved_TV = array(logits_TV - tape.outputs[joined][0][0].float())
        components["mixer"] = moved_TV[np.arange(len(ids)), integers(targets_T)]
    vocabulary = tuple(map(readable, tokenizer.token_bytes()))
    T, V = logits_TV.shape
    patterns = [seen[f"blocks.{layer}.attn.hook_pattern"] for layer in range(anatomy.n_layer)]
    attention, residual = stacked(patterns, (0, T, T)), stacked(stream, (T, 0))
    shared: dict[str, Floats] = {}  # the largest arrays are kept once
    for layer in range(anatomy.n_layer):
        shared[f"blocks.{layer}.attn.hook_pattern"] = attention[layer]
        shared[f"blocks.{layer}.hook_resid_pre"] = residual[layer]
        shared[f"blocks.{layer}.hook_resid_post"] = residual[layer + 1]
    named = {name: shared[name] if name in shared else array(x) for name, x in seen.items()}
    return Seen(
        text=text,
        ids=integers(idx_T),
        tokens=tuple(vocabulary[i] for i in ids),
        vocabulary=vocabulary,
        logits=array(logits_TV),
        probs=array(logits_TV.softmax(-1)),
        attention=attention,
        residual=residual,
        logit_lens=stacked(lens, (T, V)),
        attribution=np.stack(list(components.values())),
        components=tuple(components),
        targets=integers(targets_T),
        votes=votes,
        activations=named,
    )


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token given as text.

    Raises: UnknownCharacterError; ConfigError for a text of more or fewer tokens than one.
    """
    ids = tokenizer.encode(token)
    if len(ids) != 1:
        raise ConfigError(
            msg(
                "expected one token to attribute, got {token!r}: {number} tokens",
                token=token,
                number=len(ids),
            )
        )
    return ids[0]


def check_length(model: LanguageModel, anatomy: Anatomy, length: int) -> None:
    """Check that a text can be read at once, and that what is seen fits into memory.

    Raises: DataError.
    """
    # What has no layers reads a token, or a few, at a time.
    if anatomy.n_layer and length > model.context_size:
        raise DataError(
            msg(
                "the text has {length:,} tokens; the model reads at most {context_size:,} at "
                "once: look at a shorter text",
                length=length,
                context_size=model.context_size,
            )
        )
    # Scores and patterns; the lens, the logits, and four votes.
    a_pair, a_token = 2 * anatomy.n_layer * anatomy.n_head, (anatomy.n_layer + 6) * model.vocab_size
    if (needed := 4 * length * (a_pair * length + a_token)) > MOST_BYTES:
        raise DataError(
            msg(
                "what is seen in {length:,} tokens takes {needed:.1f} GB, and at most "
                "{most:.0f} GB is kept: look at a shorter text",
                length=length,
                needed=needed / 1e9,
                most=MOST_BYTES / 1e9,
            )
        )


def voted(
    model: LanguageModel, tape: Tape, idx_T: Tensor, logits_TV: Tensor, train: Tokens | None
) -> dict[str, Vote]:
    """What the parts of a model propose; a network alone, or n-grams alone, have all the weight."""
    if isinstance(model, Mixing):
        before_TV = tape.outputs[model.network][0][0].float()
        votes = voted(model.network, tape, idx_T, before_TV, train)
        return votes | {"mixer": mixer_vote(before_TV, logits_TV)}
    if isinstance(model, GPTWithCounts):
        return joined_votes(model, tape, idx_T, train)
    p_TV, all_T = logits_TV.softmax(-1), torch.ones(len(idx_T))
    if isinstance(model, NGramLanguageModel):
        return {"ngrams": ngram_vote(model, idx_T, p_TV, all_T, train)}
    return {"network": Vote(array(p_TV), array(all_T))}


def counted(votes: dict[str, Vote], targets: Ids) -> dict[str, Floats]:
    """What n-grams add to the targets' logits, as a component, where there are n-grams."""
    vote = votes.get("gate", votes.get("ngrams"))
    if vote is None:
        return {}
    p = vote.probs[np.arange(len(targets)), targets]
    return {"ngrams": vote.weight * np.log(np.maximum(p, MIN_PROB))}


def residual_stream(seen: Activations, n_layer: int) -> list[Tensor]:
    """The residual stream after the embedding and after each layer; of n-grams there is none."""
    layers = [seen[f"blocks.{layer}.hook_resid_post"] for layer in range(n_layer)]
    first = seen.get("blocks.0.hook_resid_pre", seen.get("hook_embed"))
    return layers if first is None else [first, *layers]


def read_out(anatomy: Anatomy, x_TC: Tensor) -> Tensor:
    """The logits that a residual stream would give if it were the last: [T,C] -> [T,V]."""
    # Past the hooks of both parts, which are of the pass that was recorded.
    return anatomy.head.forward(anatomy.norm.forward(x_TC)).float()


def stacked(tensors: list[Tensor], shape: tuple[int, ...]) -> Floats:
    """Tensors as one array; without any, an empty one of so many of this shape: none."""
    return array(torch.stack(tensors)) if tensors else np.zeros((0, *shape), np.float32)


def readable(token: bytes) -> str:
    """A token as text; bytes that are no whole character as <0xEA>."""
    text = token.decode("utf-8", "surrogateescape")
    return BYTES.sub(lambda byte: f"<0x{ord(byte[0]) - 0xDC00:02X}>", text)
