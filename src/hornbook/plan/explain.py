"""A plan in four lines, each decision with its reason."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hornbook.language import Message, msg
from hornbook.plan.costs import Text, counted_tokens
from hornbook.plan.machine import Choice
from hornbook.plan.timing import COMPILE_SECONDS, COMPILED_SHARE

if TYPE_CHECKING:
    from hornbook.plan.planner import Plan


def explain(best: "Plan", plans: "Sequence[Plan]", text: Text) -> Iterator[Choice]:
    """Size, batches, compile and dropout of the best of some plans."""
    model, train = best.config.model, best.config.train
    epochs = train.steps * best.config.tokens_per_step / text.train_tokens
    sizes = sorted({each.parameters for each in plans})
    at = sizes.index(best.parameters)

    def margin(size: int) -> Message:
        least = min(each.predicted_loss for each in plans if each.parameters == size)
        return msg(
            "{nats:.3f} nats better than {millions:.2f} million",
            nats=least - best.predicted_loss,
            millions=size / 1e6,
        )

    counts = expected = ""
    if model.with_counts:
        counted = counted_tokens(best.config, text)
        tokens = msg("{count:,} tokens", count=counted)
        if counted < text.train_tokens:
            tokens = msg(
                "the last {counted:,} of {all:,} tokens", counted=counted, all=text.train_tokens
            )
        counts = msg(", beside n-grams of {tokens}", tokens=tokens)
        if model.held_out(text.train_tokens):
            counts = msg(", beside n-grams and a mixer of {tokens}", tokens=tokens)
    margins = [margin(sizes[i]) for i in (at - 1, at + 1) if 0 <= i < len(sizes)]
    if margins:
        both = margins[0]
        if margins[1:]:
            both = msg("{first} and {second}", first=both, second=margins[1])
        expected = msg("; expected to be {margins}", margins=both)
    shape = msg(
        "{layers} layers, {width} wide: {millions:.2f} million",
        layers=model.n_layer,
        width=model.n_embd,
        millions=best.parameters / 1e6,
    )
    yield Choice(
        "size",
        msg("{shape} parameters{counts}{expected}", shape=shape, counts=counts, expected=expected),
    )
    yield Choice(
        "batches",
        msg(
            "about {steps:,} steps of {rows} x {block} tokens: {epochs:.1f} epochs",
            steps=train.steps,
            rows=train.batch_size,
            block=model.block_size,
            epochs=epochs,
        ),
    )
    compiled = msg(
        "on: {seconds:.0f} s to compile, and a step takes {share:.0%} of the time",
        seconds=COMPILE_SECONDS,
        share=COMPILED_SHARE,
    )
    how = {"c": msg("c: C kernels, with nothing to wait for"), "on": compiled}
    yield Choice("compile", how.get(train.compile, msg("off: it would not pay in this time")))
    kept = msg("{dropout:g}: the text is large enough not to be memorised", dropout=model.dropout)
    if model.dropout:
        kept = msg(
            "{dropout:g}: the text is repeated often enough to be memorised", dropout=model.dropout
        )
    yield Choice("dropout", kept)
