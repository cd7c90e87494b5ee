"""The display of a training run, on stderr: live on a terminal, lines in a log."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hornbook.cli.console import is_utf8, note, output, padded, printable
from hornbook.cli.terminal import print_table
from hornbook.errors import command, display_path
from hornbook.infer.sample import Sample
from hornbook.language import by_english, joined, msg, tr, translated
from hornbook.report import Card
from hornbook.report.words import WHICH, duration, shown, split_remarks, uncertainty
from hornbook.runs.result import Result
from hornbook.text.order import parse_mix
from hornbook.training import StepMetrics, Trainer

REFRESH_SECONDS = 0.25
CURVE_HEIGHT = 8
NARROWEST_CURVE = 40

# What the lines before a training are about, by the names of a plan's choices.
SUBJECTS = by_english(
    msg("text"),
    msg("store"),
    msg("mix"),
    msg("split"),
    msg("tokenizer"),
    msg("model"),
    msg("plan"),
    msg("size"),
    msg("batches"),
    msg("compile"),
    msg("dropout"),
    msg("counting"),
    msg("weights"),
    msg("rate"),
    msg("memory"),
    msg("device"),
    msg("precision"),
    msg("parallel"),
    msg("from"),
    msg("resumed"),
    msg("run"),
)


class Display:
    """Shows a run while it trains; `quiet` leaves only errors and the result."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        # Not `errors()`: the panel fits the terminal.
        self.console = Console(stderr=True, highlight=False)
        self.live: Live | None = None
        self.trainer: Trainer | None = None
        self.curve: list[tuple[int, float, float]] = []
        self.sample: Sample | None = None
        self.smoothed_loss = 0.0
        self.val_loss: float | None = None
        self.started = 0.0
        self.first_step = 0
        self.shown_at = 0.0

    def __enter__(self) -> Self:
        if not self.quiet and self.console.is_terminal:
            self.live = Live(
                console=self.console, auto_refresh=False, transient=False, redirect_stdout=False
            )
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    @property
    def steps(self) -> int:
        """How many steps are planned at present."""
        return self.trainer.state.steps if self.trainer else 0

    def log(self, message: str, subject: str = "") -> None:
        """Print a line on stderr, unwrapped, after its subject."""
        if not self.quiet:
            line = f"{subject_of(subject, 9)} " if subject else ""
            self.console.print(escape(line + translated(message)), soft_wrap=True)

    def announce(self, trainer: Trainer) -> None:
        """Print what will be trained, on what text and machine, and the reasons."""
        config, state = trainer.config, trainer.state
        self.trainer = trainer
        self.first_step = state.step
        if self.quiet:
            return
        data, chosen = trainer.dataset, trainer.machine
        epochs = trainer.tokens_per_step * state.steps / data.train_tokens
        plan = msg(
            "{steps:,} steps of {tokens:,} tokens: {epochs:.1f} epochs of the text",
            steps=state.steps,
            tokens=trainer.tokens_per_step,
            epochs=epochs,
        )
        if config.model.spec.counted:
            plan = msg("the n-grams of the text are counted once; there is nothing to train")
        text = msg(
            "{name}: {train:,} tokens for training, {validation:,} for validation, vocabulary of "
            "{vocab_size:,}",
            name=trainer.corpus.name,
            train=data.train_tokens,
            validation=len(data.validation),
            vocab_size=data.tokenizer.vocab_size,
        )
        self.log(text, "text")
        for subject, line in [*store_lines(trainer), *token_lines(trainer)]:
            self.log(line, subject)
        if trainer.split:
            self.log(trainer.split.copied.sentence(), "split")
            for warning in trainer.split.warnings():
                note(warning)
        self.log(joined(": ", (config.model.kind, state.model.summary)), "model")
        if trainer.plan:
            for reason in trainer.plan.reasons:
                self.log(reason.why, reason.value)
        else:
            self.log(plan, "plan")
            self.log(joined(": ", (chosen.compile.value, chosen.compile.why)), "compile")
        choices = {"device": chosen.device, "precision": chosen.precision}
        choices |= {"parallel": chosen.parallel} if chosen.ranks > 1 else {}
        for name, choice in choices.items():
            self.log(joined(": ", (choice.value, choice.why)), name)
        for sentence in trainer.start.sentences() if trainer.start else ():
            self.log(sentence, "from")
        if state.step:
            self.log(msg("at step {step:,}", step=state.step), "resumed")
        self.log(f"{trainer.folder.path}\n", "run")
        if chosen.compile.value == "on":
            self.log(msg("compiling; the first step takes a while ..."))

    def show(self, metrics: StepMetrics) -> None:
        """Show a step's metrics."""
        now = time.monotonic()
        if not self.started:
            # The first step may compile, so the time left is estimated without it.
            self.started, self.first_step = now, metrics.step
            self.smoothed_loss = metrics.train_loss
        self.smoothed_loss += 0.1 * (metrics.train_loss - self.smoothed_loss)
        if metrics.val_loss is not None:
            self.val_loss = metrics.val_loss
            self.sample = Sample(metrics.prompt or "", metrics.sample or "")
            self.curve.append((metrics.step, self.smoothed_loss, metrics.val_loss))
        if self.quiet:
            return
        if self.live is not None:
            due = now - self.shown_at >= REFRESH_SECONDS
            if due or metrics.val_loss is not None:
                self.shown_at = now
                self.live.update(self.screen(metrics), refresh=True)
        elif metrics.val_loss is not None:
            self.console.print(" ".join(self.figures(metrics)), soft_wrap=True)

    def figures(self, metrics: StepMetrics) -> Iterable[str]:
        """The step's figures with their names."""
        done = metrics.step - self.first_step
        elapsed = time.monotonic() - self.started
        left = elapsed / done * (self.steps - metrics.step) if done else None
        yield tr("step {step:,}/{steps:,}", step=metrics.step, steps=self.steps)
        yield tr("train {loss:.4f}", loss=self.smoothed_loss)
        if self.val_loss is None:
            yield tr("val  -    ")
        else:
            yield tr("val {loss:.4f}", loss=self.val_loss)
        yield tr("{speed:,.0f} tokens/s", speed=metrics.tokens_per_second)
        time_left = "-:--" if left is None else f"{left // 60:.0f}:{left % 60:02.0f}"
        yield tr("{time} left", time=time_left)

    def screen(self, metrics: StepMetrics) -> RenderableType:
        """Progress, figures, loss curve and the latest sample."""
        width = min(80, self.console.width)
        # In a table, because a bar alone does not end its line.
        bar = Table.grid()
        bar.add_row(ProgressBar(total=self.steps, completed=metrics.step, width=width))
        parts: list[RenderableType] = [bar, Text("   ".join(self.figures(metrics)))]
        if len(self.curve) > 1 and width >= NARROWEST_CURVE:
            parts.append(Text.from_ansi(self.plot()))
        if self.sample:
            rows = max(4, self.console.height - CURVE_HEIGHT - 12)
            lines = readable(self.sample).wrap(self.console, max(1, width - 4))
            title = tr("sample at step {step:,}", step=self.curve[-1][0])
            if self.sample.prompt:
                title = tr("{title}, after the line in brackets", title=title)
            parts.append(
                Panel(Text("\n").join(lines[:rows]), title=title, title_align="left", width=width)
            )
        return Group(*parts)

    def plot(self) -> str:
        """Training and validation loss so far, as curves in braille."""
        import uniplot

        steps, train, validation = zip(*self.curve, strict=True)
        return uniplot.plot_to_string(
            xs=[steps, steps],
            ys=[train, validation],
            lines=True,
            width=min(60, self.console.width - 20),
            height=CURVE_HEIGHT,
            legend_labels=[tr("training"), tr("validation")],
            color=self.console.color_system is not None,
            character_set="block" if is_utf8(self.console.file) else "ascii",
        )

    def conclude(self, card: Card) -> None:
        """Print a summary of the report card, a sample, and commands to try next."""
        out = output()
        show_card(card, out)
        result = card.result
        title = tr("a sample")
        if result.sample.prompt:
            title = tr("{title}, after the line in brackets", title=title)
        text = readable(result.sample)
        out.print(Panel(text, title=title, title_align="left", width=min(80, out.width)))
        run = result.folder.path
        place, card_place, page = (
            escape(display_path(path)) for path in (run, run / "report.html", result.folder.page)
        )
        lines = [tr("The run is in {run}, its report card in {card}.", run=place, card=card_place)]
        if result.folder.page.is_file():
            lines.append(tr("To see through it, open {page} in a browser.", page=page))
        out.print(" ".join((*lines, tr("Next:"))), soft_wrap=True)
        word = prompt_from(f"{result.sample.text} {result.sample.prompt}")
        for line in (
            command("sample", run, "--prompt", word),
            command("eval", run),
            command("train", tr("YOUR_TEXT.txt")),
        ):
            out.print(f"  {escape(line)}", soft_wrap=True)


def store_lines(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """What to know of a training from a store, each with its subject."""
    data, mix = trainer.dataset, trainer.config.data.mix
    if data.store is None:
        return
    line = msg(
        "{shards:,} shards; n-grams, losses and the report card read {train:,} and "
        "{validation:,} tokens of it",
        shards=len(data.store.manifest.shards),
        train=len(data.train),
        validation=len(data.validation),
    )
    yield "store", line
    if mix:
        weights = parse_mix(mix, data.store.groups)
        shares = (f"{name} {each / sum(weights.values()):.1%}" for name, each in weights.items())
        yield "mix", msg("{shares} of all blocks", shares=", ".join(shares))


def token_lines(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """Which tokenizer was chosen, where others were tried, with its subject."""
    if trainer.trial:
        yield "tokenizer", trainer.trial.choosing(trainer.config.data.tokenizer)


def show_card(card: Card, out: Console) -> None:
    """Print a summary of the report card: all predictors on one scale, the verdict, advice."""
    result = card.result
    error = result.evaluation.standard_error
    heading = tr("validation loss, exact")
    if error is not None:
        heading = tr("validation loss, estimated (standard error {error:.4f})", error=error)
    out.print(f"[bold]{heading}[/]")
    worst = max(each.nats_per_char for each in card.predictors)
    rows = [
        (
            translated(shown(each.name)),
            translated(shown(each.kind)),
            f"{each.nats_per_char:.4f}",
            f"{each.nats_per_char / math.log(2):.4f}",
            "█" * round(12 * each.nats_per_char / worst),
        )
        for each in card.predictors
    ]
    ours = [each.name for each in card.predictors].index("this model")
    losses = (tr("nats/char"), tr("bits/char"))
    kind = tr("kind")
    headings = ("", kind, *losses, " ")
    print_table(
        out, headings, rows, numbers=losses, unbroken=(kind, " "), drop=(4, 1, 3), best=ours
    )
    out.print(f"{translated(WHICH)}\n")
    headline = tr(
        "{loss:.4f} nats/char ({interval}); perplexity {perplexity:.2f} per character.",
        loss=card.nats_per_char,
        interval=uncertainty(card),
        perplexity=card.perplexity,
    )
    out.print(f"{headline}\n")
    if remarks := split_remarks(card):
        out.print(f"{escape(translated(remarks))}\n")
    for sentence in result.diagnosis.sentences:
        out.print(escape(translated(sentence)))
    if result.diagnosis.advice:
        out.print(tr("To try next:"))
    for advice in result.diagnosis.advice:
        out.print(f"  - {escape(translated(advice))}")
    if result.pretrained:
        out.print(escape(translated(before_and_after(result))))
    memory = ""
    if result.peak_memory_mib:
        memory = tr(", {size:,.0f} MiB peak memory", size=result.peak_memory_mib)
    if result.diagnosis.verdict == "counted":
        number = result.baselines.counted_tokens
        spent = tr("{number:,} tokens counted{memory}.", number=number, memory=memory)
    else:
        spent = tr(
            "{steps:,} steps, {tokens:,} tokens, {time} of training{memory}; best at step "
            "{best:,}.",
            steps=result.steps,
            tokens=result.tokens,
            time=duration(result.seconds),
            memory=memory,
            best=result.step,
        )
    out.print(f"\n{spent}\n")
    if abs(result.steps - result.planned_steps) > 0.1 * result.planned_steps:
        why = result.steps_why or msg("the run has not ended")
        planned = tr("{steps:,} steps were planned: {why}.", steps=result.planned_steps, why=why)
        out.print(f"{escape(planned)}\n")


def before_and_after(result: Result) -> str:
    """What fine-tuning gained on the text, and what it cost on a general one."""
    found, loss = result.pretrained or {}, result.evaluation.nats_per_char
    gained = msg(
        "before training, {before:.4f} nats/char; now {now:.4f}.",
        before=found["val_nats_per_char"],
        now=loss,
    )
    before, after = found.get("general_nats_per_char"), found.get("general_nats_per_char_after")
    if before is None or after is None:
        return gained
    general = msg(
        "On {text}, {before:.4f} before and {after:.4f} now.",
        text=found["general"],
        before=before,
        after=after,
    )
    return joined(" ", (gained, general))


def subject_of(name: str, width: int) -> str:
    """What a line is about, in columns of the same width."""
    return padded(translated(SUBJECTS.get(name, name)), width)


def readable(sample: Sample) -> Text:
    """A sample after its prompt, which stands in brackets; without control characters."""
    prompt, text = printable(sample.bracketed), printable(sample.text).rstrip("\n")
    return Text.assemble((prompt, "dim"), text) if prompt else Text(text.lstrip("\n"))


LONGEST_PROMPT = 12


def prompt_from(sample: str) -> str:
    """A word of the sample to use as a prompt, safe to paste into a shell."""
    words = (word.strip(".,:;!?()") for word in sample.split())
    found = next((word for word in words if word.isalpha() and len(word) > 1), "")
    return found[:LONGEST_PROMPT]  # DNA, and scripts without spaces, are one long word
