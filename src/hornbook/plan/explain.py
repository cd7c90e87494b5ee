"""A plan in four lines, each decision with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hornbook.plan.costs import Text, counted_tokens
from hornbook.plan.machine import Choice
from hornbook.plan.timing import COMPILE_SECONDS, COMPILED_SHARE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hornbook.plan.planner import Plan


def explain(best: Plan, plans: Sequence[Plan], text: Text) -> Iterator[Choice]:
    """Size, batches, compile and dropout of the best of some plans."""
    model, train = best.config.model, best.config.train
    epochs = train.steps * best.config.tokens_per_step / text.train_tokens
    sizes = sorted({each.parameters for each in plans})
    at = sizes.index(best.parameters)

    def margin(size: int) -> str:
        least = min(each.predicted_loss for each in plans if each.parameters == size)
        return f"{least - best.predicted_loss:.3f} nats better than {size / 1e6:.2f} million"

    counted = counted_tokens(best.config, text)
    counts = f", beside n-grams of {counted:,} tokens" if model.with_counts else ""
    beside = [margin(sizes[i]) for i in (at - 1, at + 1) if 0 <= i < len(sizes)]
    yield Choice(
        "size",
        f"{model.n_layer} layers, {model.n_embd} wide: {best.parameters / 1e6:.2f} million "
        f"parameters{counts}{'; expected to be ' + ' and '.join(beside) if beside else ''}",
    )
    yield Choice(
        "batches",
        f"about {train.steps:,} steps of {train.batch_size} x {model.block_size} tokens: "
        f"{epochs:.1f} epochs",
    )
    yield Choice(
        "compile",
        {
            "c": "c: C kernels, with nothing to wait for",
            "on": f"on: {COMPILE_SECONDS:.0f} s to compile, and a step takes "
            f"{COMPILED_SHARE:.0%} of the time",
        }.get(train.compile, "off: it would not pay in this time"),
    )
    yield Choice(
        "dropout",
        f"{model.dropout:g}: "
        + (
            "the text is repeated often enough to be memorised"
            if model.dropout
            else "the text is large enough not to be memorised"
        ),
    )
