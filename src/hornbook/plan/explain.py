"""A plan in four lines, each decision with its reason."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

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

    def margin(size: int) -> str:
        least = min(each.predicted_loss for each in plans if each.parameters == size)
        return f"{least - best.predicted_loss:.3f} nats better than {size / 1e6:.2f} million"

    counted = counted_tokens(best.config, text)
    mixer = " and a mixer" * bool(model.held_out(text.train_tokens))
    counts = f", beside n-grams{mixer} of {counted:,} tokens" if model.with_counts else ""
    beside = " and ".join(margin(sizes[i]) for i in (at - 1, at + 1) if 0 <= i < len(sizes))
    shape = f"{model.n_layer} layers, {model.n_embd} wide: {best.parameters / 1e6:.2f} million"
    expected = f"; expected to be {beside}" if beside else ""
    yield Choice("size", f"{shape} parameters{counts}{expected}")
    size = f"{train.batch_size} x {model.block_size} tokens"
    yield Choice("batches", f"about {train.steps:,} steps of {size}: {epochs:.1f} epochs")
    compiled = f"on: {COMPILE_SECONDS:.0f} s to compile, and a step takes {COMPILED_SHARE:.0%} of "
    how = {"c": "c: C kernels, with nothing to wait for", "on": f"{compiled}the time"}
    yield Choice("compile", how.get(train.compile, "off: it would not pay in this time"))
    enough = "repeated often enough" if model.dropout else "large enough not"
    yield Choice("dropout", f"{model.dropout:g}: the text is {enough} to be memorised")
