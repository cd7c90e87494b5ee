"""Writing: tokens drawn one at a time from a model, and the text they make, as it is made."""

import codecs
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from hornbook.config import SamplingConfig
from hornbook.errors import CheckpointError
from hornbook.models import GPT, GPTWithCounts, LanguageModel
from hornbook.tokenizer import Tokenizer


def probabilities(
    logits_V: Tensor, sampling: SamplingConfig, context: Sequence[int] = ()
) -> Tensor:
    """The distribution that the next token is drawn from: [V] logits -> [V], summing to 1.

    Applied in this order: repetition penalty over the tokens of `context`, temperature, top-k,
    min-p, top-p. A temperature of 0 puts everything on the most likely token.
    Sources: Keskar et al. 2019, arXiv:1909.05858 (repetition penalty); Holtzman et al. 2020,
    arXiv:1904.09751 (top-p); Nguyen et al. 2024, arXiv:2407.01082 (min-p).
    """
    logits_V = logits_V.float()
    if sampling.repetition_penalty != 1 and len(context) > 0:
        seen = torch.tensor(sorted(set(context)), device=logits_V.device)
        score = logits_V[seen]
        penalty = sampling.repetition_penalty
        penalised = torch.where(score > 0, score / penalty, score * penalty)
        logits_V = logits_V.index_copy(0, seen, penalised)
    if sampling.temperature == 0:
        return torch.zeros_like(logits_V).index_fill(0, logits_V.argmax(), 1.0)
    p_V = (logits_V / sampling.temperature).softmax(dim=-1)
    if 0 < sampling.top_k < len(p_V):
        kept = p_V.topk(sampling.top_k)
        p_V = torch.zeros_like(p_V).index_copy(0, kept.indices, kept.values)
    if sampling.min_p > 0:
        p_V = p_V.masked_fill(p_V < sampling.min_p * p_V.max(), 0.0)
    if sampling.top_p < 1:
        sorted_p, order = p_V.sort(descending=True)
        # A token stays while the mass before it falls short of top_p: the first always stays.
        before = sorted_p.cumsum(dim=-1) - sorted_p
        dropped = order[before >= sampling.top_p * p_V.sum()]
        p_V = p_V.index_fill(0, dropped, 0.0)
    return p_V / p_V.sum()


@torch.no_grad()
def next_logits(
    model: LanguageModel, prompt: Sequence[int], *, cached: bool = True
) -> Generator[Tensor, int, None]:
    """A coroutine: yields the logits [V] after the context, takes the token chosen, and so on.

    Up to `block_size` tokens of context are read. When the block is full its older half is let
    go: every token is drawn from between half a block and a whole block of context, and with a
    key-value cache only every (block_size / 2)-th token costs more than one position's work.
    `cached=False` rereads the same context for every token: the reference.
    """
    device = model.device
    context = list(prompt[-model.block_size :])
    cached_model = model if cached and isinstance(model, GPT | GPTWithCounts) else None
    cache = cached_model.new_cache() if cached_model else None
    unread = context
    while True:
        # The stance: compiled training blocks must not be compiled again for one-token shapes.
        with torch.compiler.set_stance("force_eager"):
            if cached_model and cache:
                idx = torch.tensor([unread], device=device)
                logits_V = cached_model.next_logits(idx, cache)[0]
            else:
                logits_V = model.next_logits(torch.tensor([context], device=device))[0]
        token = yield logits_V
        context.append(token)
        unread = [token]
        if len(context) > model.block_size:
            context = unread = context[-max(1, model.block_size // 2) :]
            if cache is not None:
                cache.clear()


def tokens(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    cached: bool = True,
) -> Iterator[int]:
    """An endless stream of sampled tokens after a prompt of at least one.

    Draws from a generator of its own: torch's global stream, and so training, is undisturbed.
    """
    sampling = sampling or SamplingConfig()
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    try:
        read = next_logits(model, prompt, cached=cached)
        history = list(prompt)
        logits_V = next(read)
        while True:
            p_V = probabilities(logits_V, sampling, history[-model.block_size :])
            if not p_V.isfinite().all():
                raise CheckpointError(
                    "the model's probabilities are not numbers: its weights are damaged, or its "
                    "training diverged"
                )
            token = int(torch.multinomial(p_V.cpu(), 1, generator=generator))
            history.append(token)
            yield token
            logits_V = read.send(token)
    finally:
        model.train(was_training)


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str = "",
    *,
    max_new_tokens: int = 500,
    sampling: SamplingConfig | None = None,
    stop: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[str]:
    """The text that follows a prompt, in pieces as they become certain; the prompt is not repeated.

    Ends after `max_new_tokens` or before the first of the `stop` strings, wherever token borders
    fall. With no prompt the model goes on from a line's end.
    Raises: UnknownCharacterError for a prompt outside the vocabulary.
    """
    prompt_tokens = tokenizer.encode(prompt) or [start_token(tokenizer)]
    drawn = tokens(model, prompt_tokens, sampling=sampling, seed=seed)
    return until(spell(islice(drawn, max_new_tokens), tokenizer), [mark for mark in stop if mark])


def start_token(tokenizer: Tokenizer) -> int:
    """What a text without a prompt goes on from: a newline, or token 0 where there is none."""
    newline = tokenizer.fit("\n", "skip")[0]
    return tokenizer.encode(newline)[0] if newline else 0


def spell(drawn: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Tokens to text, each character as soon as all its bytes are there.

    Bytes that are not UTF-8 become U+FFFD; a character cut off by the end is left out.
    """
    spelled = tokenizer.token_bytes()
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return filter(None, (decoder.decode(spelled[token]) for token in drawn))


def until(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """Pass text on up to the first of the `stop` strings, holding back what may begin one."""
    beginnings = {mark[:length] for mark in stop for length in range(1, len(mark))}
    longest = max(map(len, beginnings), default=0)
    held = ""
    for piece in pieces:
        held += piece
        found = [place for place in map(held.find, stop) if place >= 0]
        if found:
            held = held[: min(found)]
            break
        lengths = range(min(longest, len(held)), 0, -1)
        keep = next((n for n in lengths if held[-n:] in beginnings), 0)
        ready, held = held[: len(held) - keep], held[len(held) - keep :]
        if ready:
            yield ready
    if held:
        yield held
