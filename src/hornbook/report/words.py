"""The sentences of a report card, the same in HTML, in Markdown and in the terminal."""

from collections.abc import Iterator
from typing import Any

from hornbook.eval.diagnosis import predictor
from hornbook.language import by_english, joined, msg, tr, translated
from hornbook.report.card import Card, shares_copied
from hornbook.report.characters import Passage
from hornbook.report.context import ContextLoss
from hornbook.report.textual import INDEXED_CHARACTERS

# Predictors and their kinds have other names in the JSON, which programs rely on.
SHOWN = {
    "this model": msg("this model"),
    "this model, dynamic": msg("this model, dynamic"),
    "bigram counts": msg("bigram counts"),
    "unigram counts": msg("unigram counts"),
    "knowing nothing": msg("uniform guess"),
    "counts": msg("n-grams"),
    "network": msg("network"),
    "network and counts": msg("network + n-grams"),
    "compressor": msg("compressor"),
    "chance": msg("chance"),
}
VERDICTS = by_english(
    msg("still learning"),
    msg("done"),
    msg("overfit"),
    msg("too short to tell"),
    msg("counted"),
)


SAMPLES_FOLLOW = msg("Each sample follows the line in brackets, the first of the validation text.")


def shown(name: str) -> str:
    """A predictor or kind of the JSON by the name that people read."""
    return SHOWN.get(name) or predictor(name)


KINDS = by_english(
    msg("line ends"),
    msg("spaces"),
    msg("Chinese characters"),
    msg("capital letters"),
    msg("small letters"),
    msg("digits"),
    msg("accents and marks"),
    msg("other numbers"),
    msg("punctuation"),
    msg("symbols"),
    msg("others"),
)
SCRIPTS = by_english(
    msg("Hangul"),
    msg("Hiragana"),
    msg("Katakana"),
    msg("Arabic"),
    msg("Hebrew"),
    msg("Devanagari"),
    msg("Thai"),
)


def kind_name(kind: str) -> str:
    """A kind of character as `characters.kind_of` names it, in the current language."""
    if kind in KINDS:
        return translated(KINDS[kind])
    script = kind.removesuffix(" letters")
    return tr("{script} letters", script=SCRIPTS.get(script, script))


def duration(seconds: float) -> str:
    """A time in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return msg("{hours} h {minutes:02d} min", hours=minutes // 60, minutes=minutes % 60)
    if minutes:
        return msg("{minutes} min {seconds:02d} s", minutes=minutes, seconds=rest)
    return msg("{seconds} s", seconds=rest)


def lede(card: Card) -> str:
    """The run in one sentence."""
    result, corpus = card.result, card.origin.corpus
    if result.kind == "counts":
        return msg("An n-gram model of {text}, without a network.", text=corpus)
    figures = {
        "parameters": result.parameters,
        "text": corpus,
        "epochs": result.tokens / max(1, result.dataset.train_tokens),
        "time": duration(result.seconds),
    }
    if result.kind == "network":
        return msg(
            "A network of {parameters:,} parameters, trained on {text} for {epochs:.1f} epochs in "
            "{time}.",
            **figures,
        )
    return msg(
        "A network of {parameters:,} parameters combined with an n-gram model, trained on {text} "
        "for {epochs:.1f} epochs in {time}.",
        **figures,
    )


def unfinished(card: Card) -> str:
    """How far a run is that has not ended."""
    result = card.result
    return msg(
        "This run has not ended: {done:,} of {steps:,} steps are done. The figures are those of "
        "its checkpoint at step {best:,}.",
        done=result.steps,
        steps=result.trained.config.train.steps,
        best=result.step,
    )


# Which rows of the scale can be compared.
WHICH = msg(
    "Compare the compressors, which learn the validation text as they read it, with this model, "
    "dynamic, which does so too; this model and the n-grams are frozen after the training text."
)


def uncertainty(card: Card) -> str:
    """The headline's confidence interval."""
    low, high = card.confidence.low, card.confidence.high
    if card.result.split.copied.much:
        return msg(
            "95% confidence interval {low:.3f} to {high:.3f}, for other text with as much copied",
            low=low,
            high=high,
        )
    return msg(
        "95% confidence interval {low:.3f} to {high:.3f}, for other text of the same kind",
        low=low,
        high=high,
    )


def measured_on(card: Card) -> str:
    """What the headline was measured on."""
    copied = card.result.split.copied
    if not copied.much:
        return msg("text it has never seen")
    return msg(
        "the validation text, of which it has seen {share:.1%} in training", share=copied.share
    )


def split_remarks(card: Card) -> str:
    """What is copied of the validation text, the loss on the rest, and what only it has."""
    split, rest = card.result.split, card.result.new_nats_per_char
    remarks = list(split.warnings())
    if split.copied.copied_characters:
        if not split.copied.much:
            remarks.insert(0, msg("{sentence}.", sentence=split.copied.sentence()))
        elsewhere = msg("There is no other text to measure.")
        if rest is not None:
            elsewhere = msg("On the rest of it the loss is {loss:.4f} nats/char.", loss=rest)
        remarks.insert(1, elsewhere)
    return joined(" ", remarks)


def context_advice(context: ContextLoss, block_size: int) -> str:
    """Whether a longer context may help, by what its last doubling gained."""
    size, gain, noise = context.context_size, context.last_doubling, context.noise
    if gain is None or noise is None:
        return msg("The context or the text is too short for this measurement.")
    before = f"{size // 4 + 1}–{size // 2}"
    after = f"{size // 2 + 1}–{size}"
    if gain > noise:
        return msg(
            "The last doubling, from {before} to {after} tokens of context, still lowers the loss "
            "by {gain:.3f} ± {noise:.3f} nats/char: a longer block may help (--set "
            "block_size={longer}).",
            before=before,
            after=after,
            gain=gain,
            noise=noise,
            longer=2 * block_size,
        )
    return msg(
        "The last doubling, from {before} to {after} tokens of context, gains {gain:.3f} ± "
        "{noise:.3f} nats/char, which is within the noise: there is no sign that a longer block "
        "would help.",
        before=before,
        after=after,
        gain=gain,
        noise=noise,
    )


def copying(card: Card) -> str:
    """How much of the samples is copied, compared with real text."""
    shares = shares_copied([n for sample in card.samples for n in sample.match_lengths])
    listed = joined(
        "; ",
        (
            msg(
                "{share:.1%} in matches of {length}+ characters (real validation text: {real:.1%})",
                share=share,
                length=n,
                real=card.copied_in_real_text[n],
            )
            for n, share in shares.items()
        ),
    )
    found = [msg("Copied verbatim from the training text: {shares}.", shares=listed)]
    if card.origin.training_characters > INDEXED_CHARACTERS:
        found.append(
            msg(
                "Only the last {number:,} characters of the training text were searched.",
                number=INDEXED_CHARACTERS,
            )
        )
    return joined(" ", found)


def made_from(card: Card) -> Iterator[tuple[str, str]]:
    """The most important facts, by name."""
    origin, result, split = card.origin, card.result, card.result.split
    config, environment = result.trained.config, origin.environment
    yield from of_the_store(card, store) if (store := result.store) else of_the_text(card)
    yield msg("copied"), split.copied.sentence()
    if split.only_validation:
        yield msg("only in validation"), split.symbols
    yield (
        msg("vocabulary"),
        msg(
            "{number:,} distinct tokens ({tokenizer})",
            number=origin.vocab_size,
            tokenizer=origin.tokenizer,
        ),
    )
    yield (
        msg("model"),
        msg(
            "{model} ({kind}), {parameters:,} parameters, context length {context} tokens, block "
            "size {block}",
            model=config.model.model,
            kind=shown(result.kind),
            parameters=result.parameters,
            context=config.model.context_size,
            block=config.model.block_size,
        ),
    )
    training = msg(
        "{steps:,} steps, {tokens:,} tokens, {time}; best at step {best:,}",
        steps=result.steps,
        tokens=result.tokens,
        time=duration(result.seconds),
        best=result.step,
    )
    if result.finished and result.steps != result.planned_steps:
        training = msg(
            "{training}; {steps:,} steps were planned: {why}",
            training=training,
            steps=result.planned_steps,
            why=result.steps_why,
        )
    if result.diagnosis.verdict == "counted":
        training = msg(
            "{number:,} tokens counted, no steps", number=result.baselines.counted_tokens
        )
    yield msg("training"), training
    energy = msg("not available on this machine")
    if result.energy_joules is not None:
        energy = msg(
            "{energy:.2f} Wh, as reported by all processors of the machine",
            energy=result.energy_joules / 3600,
        )
    yield msg("energy"), energy
    if result.peak_memory_mib:
        yield msg("memory"), msg("{size:,.0f} MiB at peak", size=result.peak_memory_mib)
    unknown = msg("not recorded")
    parts = (environment.get(name, "none") for name in ("processor", "gpu", "system"))
    yield msg("machine"), ", ".join(part for part in parts if part != "none") or unknown
    named = ("hornbook", "commit", "python", "torch", "numpy")
    versions = (f"{name} {environment[name]}" for name in named if name in environment)
    yield msg("versions"), ", ".join(versions) or unknown
    yield (
        msg("size"),
        msg("{bytes:,} bytes, {lines:,} lines", bytes=origin.bytes, lines=origin.lines),
    )


def of_the_text(card: Card) -> Iterator[tuple[str, str]]:
    """The facts of a text that was read whole."""
    origin = card.origin
    yield (
        msg("text"),
        msg("{name}, {number:,} characters", name=origin.corpus, number=origin.characters),
    )
    yield "SHA-256", origin.corpus_sha256
    yield (
        msg("split"),
        msg(
            "the first {train:,} characters for training, the last {validation:,} ({share:.0%}) "
            "for validation",
            train=origin.training_characters,
            validation=origin.validation_characters,
            share=origin.validation_fraction,
        ),
    )


def of_the_store(card: Card, store: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts of a store, and how much of it was read."""
    origin = card.origin
    yield (
        msg("store"),
        msg(
            "{name}: {train:,} tokens for training, {validation:,} for validation",
            name=origin.corpus,
            train=store["train_tokens"],
            validation=store["validation_tokens"],
        ),
    )
    groups = (
        msg(
            "{name}: {tokens:,} tokens ({share:.1%} of all), {epochs:.3g} epochs",
            name=name,
            tokens=read["tokens"],
            share=read["share"],
            epochs=read["epochs"],
        )
        for name, read in store["read"].items()
    )
    yield msg("read"), joined("; ", tuple(groups))
    yield (
        msg("sample"),
        msg(
            "evenly spaced parts of the store, {number:,} characters: the n-grams, the loss and "
            "this card are of it",
            number=origin.characters,
        ),
    )
    yield "SHA-256", origin.corpus_sha256


def settings_lines(card: Card) -> Iterator[tuple[str, str]]:
    """Every setting, then the versions and the machine."""
    for name, value in card.origin.settings.items():
        if value not in (None, ""):
            yield name, str(value)
    yield from card.origin.environment.items()


def place_of(passage: Passage) -> str:
    """The line of a passage."""
    if passage.line is None:
        return msg("A passage")
    return msg("Line {line:,}", line=passage.line)
