"""`hornbook look`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hornbook.cli.console import is_utf8, output
from hornbook.cli.terminal import TEXT, FreeText, Natural, fit_text, print_json, print_table, table
from hornbook.errors import ConfigError, display_path
from hornbook.language import by_english, msg, tr, translated

if TYPE_CHECKING:
    from hornbook.lens.seen import Floats, Seen, Vote
    from hornbook.text.tokenizer import Tokenizer

# A cell is as dark as its attention is high: from these on the next shade.
VOTERS = by_english(msg("network"), msg("ngrams"), msg("cache"), msg("gate"), msg("mixer"))
SHADES = " ░▒▓█"
FROM = (0.05, 0.2, 0.4, 0.7)
# Colours repeat what the shades say; these differ in brightness, for whoever sees fewer of them.
COLOURS = ("", "color(60)", "color(67)", "color(72)", "color(220)")
BAR_WIDTH = 24
LABEL_WIDTH = 12
LENS_ROWS = 12
PROPOSALS = 4
MOVERS = 5


def run(
    run: Path,
    text: FreeText = "",
    /,
    *,
    layer: Natural | None = None,
    head: Natural | None = None,
    token: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    checkpoint: Literal["best", "last"] = "best",
    unknown: Literal["error", "skip", "replace"] = "error",
    escapes: Annotated[bool, Parameter(negative="")] = False,
    encoding: str | None = None,
    moved: Annotated[str | None, TEXT] = None,
    json: bool = False,
) -> None:
    """Look inside a trained model while it reads a text.

    Where a head attends, what the model would have said after each layer, who proposes what next,
    and which parts raised or lowered that token's logit.

    Args:
        run: The run folder.
        text: The text to read; - reads it from standard input. Without it the model reads the end
            of a line.
        layer: The layer of the head to show, from 0; by default the layer of the head that adds
            most to the next token's logit.
        head: The head to show, from 0.
        token: Whose logit to explain; by default the likeliest next token's.
        checkpoint: Which weights: those with the lowest validation loss, or the last.
        unknown: What to do with characters of the text that are not in the vocabulary.
        escapes: Read \\n, \\r, \\t, \\xHH and \\uHHHH in the text and in the token as the
            characters that they name, and \\\\ as a backslash.
        encoding: The text's encoding, if it is not UTF-8.
        moved: Where the run's own text is now, if it was moved since.
        json: Print one JSON object with every array.
    """
    from hornbook.cli.prompt import piped, typed
    from hornbook.lens.model import load

    model = load(run, which=checkpoint, text=moved)
    if text == "-":
        text = piped(model.tokenizer, encoding)
    else:
        text = typed(msg("the text"), text, escapes=escapes, encoding=encoding)
    if token is not None:
        token = typed("--token", token, escapes=escapes, encoding=encoding)
    seen = model.look(fit_text(model.tokenizer, text, unknown), token=token)
    if json:
        print_json({"run": str(run), "step": model.step, **seen.as_dict()}, ascii_only=False)
        return
    place = chosen_head(seen, layer, head)
    console = output()
    facts = {"run": display_path(run), "step": model.step}
    shown = tr("{run}, step {step:,}: 1 token", **facts)
    if len(seen.ids) > 1:
        facts |= {"tokens": len(seen.ids), "nats": seen.losses.mean()}
        shown = tr("{run}, step {step:,}: {tokens:,} tokens, {nats:.4f} nats a token", **facts)
    console.print(Text(shown))
    if place is not None:
        show_attention(console, seen, *place)
        show_lens(console, seen)
    show_votes(console, seen, model.tokenizer)
    show_attribution(console, seen)


def chosen_head(seen: "Seen", layer: int | None, head: int | None) -> tuple[int, int] | None:
    """The head to show: the one asked for, or of a layer or all the one that adds most at the end.

    Raises: ConfigError for a layer or head that the model does not have.
    """
    layers, heads = seen.attention.shape[:2]
    for name, number, count in (("layer", layer, layers), ("head", head, heads)):
        if number is not None and number >= count:
            if not count:
                raise ConfigError(
                    msg("--{name} {number}: the model has no {name}", name=name, number=number)
                )
            raise ConfigError(
                msg(
                    "--{name} {number}: the model has {name}s 0 to {last}",
                    name=name,
                    number=number,
                    last=count - 1,
                )
            )
    places = [
        (each, other)
        for each in (range(layers) if layer is None else [layer])
        for other in (range(heads) if head is None else [head])
    ]

    def added(place: tuple[int, int]) -> float:
        component = "blocks.{}.attn.head.{}".format(*place)
        if component not in seen.components:
            return 0.0
        return abs(float(seen.attribution[seen.components.index(component), -1]))

    return max(places, key=added, default=None)


def show_attention(console: Console, seen: "Seen", layer: int, head: int) -> None:
    """Print a head's attention: a row for each position, a cell for each position it attends to."""
    labels = [quoted_token(token) for token in seen.tokens]
    width = min(LABEL_WIDTH, max(map(cell_len, labels)))
    T = len(labels)
    first = max(0, T - max(1, (console.width - width - 1) // 2))
    heading(
        console,
        tr(
            "Layer {layer}, head {head}: where each position (row) attends to",
            layer=layer,
            head=head,
        ),
    )
    for t in range(first, T):
        label = Text(labels[t], no_wrap=True)
        label.truncate(width, overflow="ellipsis")
        label.pad_right(width - label.cell_len)
        row = Text.assemble(label, " ")
        for weight in seen.attention[layer, head, t, first : t + 1]:
            shade = sum(weight >= least for least in FROM)
            row.append(2 * SHADES[shade], COLOURS[shade])
        row.rstrip()
        console.print(row, soft_wrap=True)
    scale = ", ".join(f"{shade} {least:.0%}" for shade, least in zip(SHADES[1:], FROM, strict=True))
    legend = tr("columns are the same positions; from {scale}", scale=scale)
    if first:
        cut = tr("the last {shown} of {positions:,} positions", shown=T - first, positions=T)
        legend = f"{legend}; {cut}"
    console.print(Text(legend, style="dim"))


def show_lens(console: Console, seen: "Seen") -> None:
    """Print the likeliest token after each layer, for the last positions."""
    import numpy as np

    heading(console, tr("What it would have said after each layer"))
    layers = [tr("layer {layer}", layer=layer) for layer in range(len(seen.logit_lens))]
    headings = ["", tr("after"), *layers, tr("model")]
    rows = []
    for t in range(max(0, len(seen.ids) - LENS_ROWS), len(seen.ids)):
        guesses = [np.exp(seen.logit_lens[layer, t]) for layer in range(len(layers))]
        cells = [proposal(seen, each) for each in (*guesses, seen.probs[t])]
        rows.append([str(t), Text(quoted_token(seen.tokens[t])), *map(Text, cells)])
    # Where there is no room, early layers go first.
    drop = range(2, 2 + len(layers))
    print_table(console, headings, rows, numbers=[""], unbroken=headings, drop=drop)


def proposal(seen: "Seen", probs_V: "Floats") -> str:
    """The likeliest token of a distribution, and its probability."""
    from hornbook.lens.seen import likeliest

    [(token, p)] = likeliest(probs_V, seen.vocabulary, 1)
    return f"{quoted_token(token)} {p:.0%}"


def show_votes(console: Console, seen: "Seen", tokenizer: "Tokenizer") -> None:
    """Print what the model and each part of it propose after the last position, as bars."""
    from hornbook.lens.seen import likeliest

    heading(console, tr("What comes next"))
    several = len(seen.votes) > 1
    weight = tr("weight")
    headings = (tr("who"), weight, tr("proposes"), "")
    rows = table(headings if several else (), numbers=(weight,))
    bar = max(4, min(BAR_WIDTH, console.width - 40))

    def add(name: str, weight: str, probs_V: "Floats") -> None:
        for token, p in likeliest(probs_V, seen.vocabulary, PROPOSALS):
            if p > 0:
                shown = Text(f"{'█' * round(bar * p):<{bar}} {p:.1%}", style="cyan")
                rows.add_row(*((name, weight) if several else ()), Text(quoted_token(token)), shown)
                name = weight = ""

    add(tr("model"), "", seen.probs[-1])
    if several:
        for name, vote in seen.votes.items():
            add(called(name), f"{vote.weight[-1]:.2f}", vote.probs[-1])
    console.print(rows)
    for name, vote in seen.votes.items():
        if vote.matched is not None:
            console.print(Text(context(tokenizer, seen, name, vote), style="dim"))


def context(tokenizer: "Tokenizer", seen: "Seen", name: str, vote: "Vote") -> str:
    """Which context matched at the last position, and how often it stood where."""
    length = 0 if vote.matched is None else int(vote.matched[-1])
    if not length:
        return tr("{who}: no context matched", who=called(name))
    words = quoted_token(tokenizer.decode(seen.ids[len(seen.ids) - length :]))
    if vote.count is None:
        return tr(
            "{who}: the longest context is {words}; the training text is not at hand",
            who=called(name),
            words=words,
        )
    where = tr("earlier in this text") if name == "cache" else tr("in the training text")
    times = tr("once")
    if vote.count[-1] != 1:
        times = tr("{number:,} times", number=vote.count[-1])
    return tr(
        "{who}: the longest context is {words}, {times} {where}",
        who=called(name),
        words=words,
        times=times,
        where=where,
    )


def called(voter: str) -> str:
    """A voter of the JSON, as people read it."""
    return translated(VOTERS.get(voter, voter))


def show_attribution(console: Console, seen: "Seen") -> None:
    """Print which parts add most to the logit, and which lower it most."""
    added = sorted(
        zip(seen.attribution[:, -1], seen.components, strict=True), key=lambda each: -abs(each[0])
    )
    target = quoted_token(seen.vocabulary[seen.targets[-1]])
    logit = seen.logits[-1, seen.targets[-1]]
    heading(console, tr("The logit of {token} is {logit:+.2f}", token=target, logit=logit))
    parts = Table(box=None, pad_edge=False, show_header=False)
    for value, name in added[:MOVERS]:
        parts.add_row(name, f"{value:+.2f}")
    if rest := added[MOVERS:]:
        parts.add_row(
            tr("{number} more", number=len(rest)), f"{sum(value for value, _ in rest):+.2f}"
        )
    console.print(parts)


def quoted_token(token: str) -> str:
    """A token in quotes, with control characters, and what the output cannot encode, escaped."""
    return repr(token) if is_utf8(sys.stdout) else ascii(token)


def heading(console: Console, text: str) -> None:
    """Print a section's heading."""
    console.print(Text.assemble("\n", (text, "bold")))
