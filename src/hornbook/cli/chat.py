"""`hornbook chat`."""

import sys
from pathlib import Path

from hornbook.cli.console import printable
from hornbook.cli.terminal import FreeText, Natural
from hornbook.language import msg


def run(
    run: Path,
    /,
    *,
    system: FreeText = "",
    max_new_tokens: Natural = 300,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: Natural = 0,
) -> None:
    """Talk with a model that has a chat template: one that began as such a model, by --from.

    Each line from standard input is a message, and the answer streams to stdout. An empty line
    begins a new conversation; the end of the input ends the command.

    Args:
        run: The run folder.
        system: What the model is told first.
        max_new_tokens: The most tokens of an answer.
        temperature: Below 1 safer, above 1 bolder; 0 always takes the most likely token.
        top_p: Draw from the most likely tokens that together have this probability.
        seed: The seed of the first answer; each further answer takes the next one.
    """
    from hornbook.errors import ConfigError, command
    from hornbook.pretrained.chat import chat_template
    from hornbook.runs.engine import open_engine
    from hornbook.runs.folder import open_run
    from hornbook.text.chat import chat_stops, chat_tokens

    template = chat_template(open_run(run))
    if template is None:
        raise ConfigError(
            msg(
                "{run}: this model has no chat template, so it continues texts: {command}",
                run=run,
                command=command("sample", run),
            )
        )
    engine = open_engine(run)
    tokenizer = engine.tokenizer
    stop = chat_stops(tokenizer)
    first = [{"role": "system", "content": system}] if system else []
    messages = list(first)
    shown = printable if sys.stdout.isatty() else str
    for line in iter(ask, None):
        if not line.strip():
            messages = list(first)
            continue
        messages.append({"role": "user", "content": line.rstrip("\n")})
        ids = chat_tokens(template, messages, tokenizer)
        answer = ""
        for piece in engine.stream(
            ids, max_new_tokens=max_new_tokens, stop=stop, seed=seed,
            temperature=temperature, top_p=top_p,
        ):  # fmt: skip
            answer += piece
            sys.stdout.write(shown(piece))
            sys.stdout.flush()
        sys.stdout.write("\n")
        messages.append({"role": "assistant", "content": answer})
        seed += 1


def ask() -> str | None:
    """The next line, after a mark where a person types it; None at the end of the input."""
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    return sys.stdin.readline() or None
