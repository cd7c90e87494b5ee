"""The sentences of a report card, the same in HTML, in Markdown and in the terminal."""

from collections.abc import Iterator

from hornbook.report.card import INDEXED_CHARACTERS, Card, shares_copied
from hornbook.report.characters import Passage
from hornbook.report.context import ContextLoss

# Predictors and their kinds have other names in the JSON, which programs rely on.
SHOWN = {
    "knowing nothing": "uniform guess",
    "counts": "n-grams",
    "network and counts": "network + n-grams",
}


SAMPLES_FOLLOW = "Each sample follows the line in brackets, the first of the validation text."


def shown(name: str) -> str:
    """A predictor or kind of the JSON by the name that people read."""
    return SHOWN.get(name, name)


def duration(seconds: float) -> str:
    """A time in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def lede(card: Card) -> str:
    """The run in one sentence."""
    result, corpus = card.result, card.origin.corpus
    if result.kind == "counts":
        return f"An n-gram model of {corpus}, without a network."
    epochs = result.tokens / max(1, result.dataset.train_tokens)
    combined = "" if result.kind == "network" else " combined with an n-gram model"
    trained = f"trained on {corpus} for {epochs:.1f} epochs in {duration(result.seconds)}"
    return f"A network of {result.parameters:,} parameters{combined}, {trained}."


def unfinished(card: Card) -> str:
    """How far a run is that has not ended."""
    result = card.result
    return (
        f"This run has not ended: {result.steps:,} of {result.trained.config.train.steps:,} steps "
        f"are done. The figures are those of its checkpoint at step {result.step:,}."
    )


# Which rows of the scale can be compared.
WHICH = (
    "Compare the compressors, which learn the validation text as they read it, with this model, "
    "dynamic, which does so too; this model and the n-grams are frozen after the training text."
)


def uncertainty(card: Card) -> str:
    """The headline's confidence interval."""
    low, high = card.confidence.low, card.confidence.high
    kind = "with as much copied" if card.result.split.copied.much else "of the same kind"
    return f"95% confidence interval {low:.3f} to {high:.3f}, for other text {kind}"


def measured_on(card: Card) -> str:
    """What the headline was measured on."""
    copied = card.result.split.copied
    if not copied.much:
        return "text it has never seen"
    return f"the validation text, of which it has seen {copied.share:.1%} in training"


def split_remarks(card: Card) -> str:
    """What is copied of the validation text, the loss on the rest, and what only it has."""
    split, rest = card.result.split, card.result.new_nats_per_char
    remarks = list(split.warnings())
    if split.copied.copied_characters:
        if not split.copied.much:
            remarks.insert(0, f"{split.copied.sentence()}.")
        elsewhere = "There is no other text to measure."
        if rest is not None:
            elsewhere = f"On the rest of it the loss is {rest:.4f} nats/char."
        remarks.insert(1, elsewhere)
    return " ".join(remarks)


def context_advice(context: ContextLoss, block_size: int) -> str:
    """Whether a longer context may help, by what its last doubling gained."""
    size, gain, noise = context.context_size, context.last_doubling, context.noise
    if gain is None or noise is None:
        return "The context or the text is too short for this measurement."
    doubling = f"from {size // 4 + 1}–{size // 2} to {size // 2 + 1}–{size} tokens of context"
    if gain > noise:
        return (
            f"The last doubling, {doubling}, still lowers the loss by {gain:.3f} ± {noise:.3f} "
            f"nats/char: a longer block may help (--set block_size={2 * block_size})."
        )
    return (
        f"The last doubling, {doubling}, gains {gain:.3f} ± {noise:.3f} nats/char, which is within "
        "the noise: there is no sign that a longer block would help."
    )


def copying(card: Card) -> str:
    """How much of the samples is copied, compared with real text."""
    shares = shares_copied([n for sample in card.samples for n in sample.match_lengths])
    listed = "; ".join(
        f"{share:.1%} in matches of {n}+ characters (real validation text: "
        f"{card.copied_in_real_text[n]:.1%})"
        for n, share in shares.items()
    )
    part = f" Only the last {INDEXED_CHARACTERS:,} characters of the training text were searched."
    whole = card.origin.training_characters <= INDEXED_CHARACTERS
    return f"Copied verbatim from the training text: {listed}.{'' if whole else part}"


def made_from(card: Card) -> Iterator[tuple[str, str]]:
    """The most important facts, by name."""
    origin, result, split = card.origin, card.result, card.result.split
    config, environment = result.trained.config, origin.environment
    store = result.store
    if store:
        tokens, held = store["train_tokens"], store["validation_tokens"]
        yield "store", f"{origin.corpus}: {tokens:,} tokens for training, {held:,} for validation"
        yield (
            "read",
            "; ".join(
                f"{name}: {read['tokens']:,} tokens ({read['share']:.1%} of all), "
                f"{read['epochs']:.3g} epochs"
                for name, read in store["read"].items()
            ),
        )
        sampled = f"evenly spaced parts of the store, {origin.characters:,} characters"
        yield "sample", f"{sampled}: the n-grams, the loss and this card are of it"
    else:
        yield "text", f"{origin.corpus}, {origin.characters:,} characters"
    yield "SHA-256", origin.corpus_sha256
    last = f"{origin.validation_characters:,} ({origin.validation_fraction:.0%}) for validation"
    first = f"the first {origin.training_characters:,} characters for training"
    if not store:
        yield "split", f"{first}, the last {last}"
    yield "copied", split.copied.sentence()
    if split.only_validation:
        yield "only in validation", split.symbols
    yield "vocabulary", f"{origin.vocab_size:,} distinct tokens ({origin.tokenizer})"
    yield (
        "model",
        f"{config.model.model} ({shown(result.kind)}), {result.parameters:,} parameters, context "
        f"length {config.model.context_size} tokens, block size {config.model.block_size}",
    )
    steps = f"{result.steps:,} steps, {result.tokens:,} tokens, {duration(result.seconds)}"
    planned = ""
    if result.finished and result.steps != result.planned_steps:
        planned = f"; {result.planned_steps:,} steps were planned: {result.steps_why}"
    training = f"{steps}; best at step {result.step:,}{planned}"
    if result.diagnosis.verdict == "counted":
        training = f"{result.baselines.counted_tokens:,} tokens counted, no steps"
    yield "training", training
    energy = "not available on this machine"
    if result.energy_joules is not None:
        energy = (
            f"{result.energy_joules / 3600:.2f} Wh, as reported by all processors of the machine"
        )
    yield "energy", energy
    if result.peak_memory_mib:
        yield "memory", f"{result.peak_memory_mib:,.0f} MiB at peak"
    parts = (environment.get(name, "none") for name in ("processor", "gpu", "system"))
    yield "machine", ", ".join(part for part in parts if part != "none") or "not recorded"
    named = ("hornbook", "commit", "python", "torch", "numpy")
    versions = (f"{name} {environment[name]}" for name in named if name in environment)
    yield "versions", ", ".join(versions) or "not recorded"
    yield "size", f"{origin.bytes:,} bytes, {origin.lines:,} lines"


def settings_lines(card: Card) -> Iterator[tuple[str, str]]:
    """Every setting, then the versions and the machine."""
    for name, value in card.origin.settings.items():
        if value not in (None, ""):
            yield name, str(value)
    yield from card.origin.environment.items()


def place_of(passage: Passage) -> str:
    """The line of a passage."""
    return "A passage" if passage.line is None else f"Line {passage.line:,}"
