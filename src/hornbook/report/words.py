"""What a report card says in words, the same on the page, in Markdown and in the terminal."""

from collections.abc import Iterator, Sequence

from hornbook.report.card import COPY_LENGTHS, INDEXED_CHARACTERS, Card
from hornbook.report.reading import Depth, Interval, Passage, Reach


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def lede(card: Card) -> str:
    """What this is, in a sentence."""
    result, corpus = card.result, card.origin.corpus
    if result.kind == "counts":
        return f"Counts of {corpus}, no network."
    times = result.tokens / max(1, len(result.dataset.train))
    what = {"network": "A network"}.get(result.kind, "A network joined with counts,")
    return (
        f"{what} of {result.parameters:,} parameters that read {corpus} {times:.1f} times over, "
        f"in {duration(result.seconds)} of training."
    )


def uncertainty(confidence: Interval) -> str:
    """The headline's interval, and what it is of."""
    return f"95% between {confidence.low:.3f} and {confidence.high:.3f} on other text of its kind"


def position_names(depths: Sequence[Depth]) -> list[str]:
    """Each depth of context as a mark on an axis."""
    return [
        f"{each.first}" if each.first == each.last else f"{each.first}–{each.last}"
        for each in depths
    ]


def reaching(reach: Reach, block_size: int) -> str:
    """Whether more context would help, by what the last doubling of it gave."""
    size, gain, noise = reach.context_size, reach.last_doubling, reach.noise
    if gain is None or noise is None:
        return "What is read at once is too short, or the text is, to tell."
    doubling = f"from {size // 4 + 1}–{size // 2} to {size // 2 + 1}–{size} tokens of context"
    if gain > noise:
        return (
            f"The last doubling, {doubling}, still takes {gain:.3f} ± {noise:.3f} nats/char off: "
            f"it uses what it sees, and may use more (--set block_size={2 * block_size})."
        )
    return (
        f"The last doubling, {doubling}, brings nothing that can be told from chance "
        f"({gain:.3f} ± {noise:.3f} nats/char): no sign that a longer block would help."
    )


def copying(card: Card) -> str:
    """How much of the samples is copied, and the yardstick."""
    lengths = [n for sample in card.samples for n in sample.match_lengths]
    shares = {n: sum(m >= n for m in lengths) / max(1, len(lengths)) for n in COPY_LENGTHS}
    shown = "; ".join(
        f"{shares[n]:.1%} in stretches of {n} or more (real unseen text: "
        f"{card.copied_in_real_text[n]:.1%})"
        for n in COPY_LENGTHS
    )
    part = (
        ""
        if card.origin.training_characters <= INDEXED_CHARACTERS
        else f" Only the last {INDEXED_CHARACTERS:,} characters of the training text were looked "
        "through."
    )
    return f"Word for word from the training text: {shown}.{part}"


def made_from(card: Card) -> Iterator[tuple[str, str]]:
    """The facts that matter, by name."""
    origin, result = card.origin, card.result
    config, environment = result.trained.config, origin.environment
    yield "text", f"{origin.corpus}, {origin.characters:,} characters"
    yield "SHA-256", origin.corpus_sha256
    yield (
        "split",
        f"the first {origin.training_characters:,} characters to learn from, the last "
        f"{origin.validation_characters:,} ({origin.validation_fraction:.0%}) to be tested on",
    )
    yield "alphabet", f"{origin.vocab_size:,} distinct tokens ({origin.tokenizer})"
    yield (
        "model",
        f"{config.model.model} ({result.kind}), {result.parameters:,} parameters, reads "
        f"{config.model.context_size} tokens at once, trained on {config.model.block_size}",
    )
    yield (
        "training",
        f"{result.steps:,} steps, {result.tokens:,} tokens, {duration(result.seconds)}; best at "
        f"step {result.step:,}",
    )
    if result.energy_joules is not None:
        hours = result.energy_joules / 3600
        yield "energy", f"{hours:.2f} Wh, the whole machine's processors, as they tell it"
    else:
        yield "energy", "this machine does not tell"
    if result.peak_memory_mib:
        yield "memory", f"{result.peak_memory_mib:,.0f} MiB at most"
    yield (
        "machine",
        ", ".join(
            str(environment[name])
            for name in ("processor", "gpu", "system")
            if environment.get(name) not in (None, "none")
        )
        or "not recorded",
    )
    yield (
        "versions",
        ", ".join(
            f"{name} {environment[name]}"
            for name in ("hornbook", "commit", "python", "torch", "numpy")
            if name in environment
        )
        or "not recorded",
    )


def bytes_and_lines(card: Card) -> tuple[str, str]:
    """The text's size in its other units."""
    return "size", f"{card.origin.bytes:,} bytes, {card.origin.lines:,} lines"


def settings_lines(card: Card) -> Iterator[tuple[str, str]]:
    """Every setting, then every version and fact of the machine."""
    for name, value in card.origin.settings.items():
        if value is not None:
            yield name, str(value)
    yield from card.origin.environment.items()


def place_of(passage: Passage) -> str:
    """Where a passage stands."""
    return "A passage" if passage.line is None else f"Line {passage.line:,}"
