"""The command line: one module a command, imported only when it runs."""

import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NoReturn

from cyclopts import App, CycloptsError
from cyclopts.exceptions import UnusedCliTokensError
from rich.markup import escape

from hornbook import __version__
from hornbook.cli.console import abandon_output, errors, note, open_streams
from hornbook.cli.help import LANGUAGE_OPTION, Help, mistake_in
from hornbook.cli.language import in_its_language
from hornbook.cores import before_torch
from hornbook.errors import HornbookError, HornbookWarning, for_terminal, quoted, reason
from hornbook.language import msg, tr, translated
from hornbook.parallel import Job

python_format_warning = warnings.formatwarning
app = App(
    name="hornbook",
    help="Language models from letters up, that you can see through.",
    version=__version__,
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
    help_formatter=Help(),
)
for command, summary in {
    "train": "Train a model on a text.",
    "prepare": "Prepare texts larger than memory as a store to train on.",
    "sample": "Generate text with a trained model.",
    "look": "Look inside a trained model while it reads a text.",
    "chat": "Talk with a model that began as one to talk with.",
    "eval": "Measure a trained model's exact loss.",
    "report": "Write a run's report card again, or compare runs.",
    "page": "Write a page that runs a model in a browser and shows how it thinks.",
    "trace": "Show which parts of a text are copied from the training text, and from where.",
    "export": "Export a run for transformers, llama.cpp, Ollama and onnxruntime.",
    "serve": "Serve models to programs that speak OpenAI's API, and by a page.",
    "verify": "Check every file of a run.",
    "ladder": "Train every rung from a bigram to a GPT, and compare them.",
    "lessons": "Write the lessons as notebooks, in English or Korean.",
    "explain": "Show how an idea works, in figures.",
    "corpora": "List the named texts, and which of them are on this machine.",
    "plan": "Estimate a run on GPUs: memory, communication, speed, time and cost.",
    "bench": "Measure speed and memory on this machine, and compare with other programs.",
    "doctor": "Print what this machine offers and what training will use.",
}.items():
    app.command(f"hornbook.cli.{command}:run", name=command, help=summary)


HELP = msg("see hornbook --help")
OUT_OF_MEMORY = msg("not enough memory; use a smaller model, batch or text")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 success, 1 failure, 2 usage error, 3 diverged, 128 + signal."""
    status = run(sys.argv[1:] if arguments is None else arguments)
    gc.freeze()  # Python would look through all of torch for garbage once more: 0.5 s
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status. Every error is one message on stderr."""
    status = 0
    closed = open_streams()
    before_torch()
    handle_signals()
    warnings.formatwarning = format_warning
    with ExitStack() as language:
        try:
            wanted = language.enter_context(in_its_language(arguments))
            app.help_epilogue = translated(LANGUAGE_OPTION)
            status = app(wanted)
            sys.stdout.flush()
            if closed:
                note(msg("standard output is closed, so the result was not printed"))
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except BrokenPipeError:
            abandon_output()  # its reader has gone
        except Exception as error:  # noqa: BLE001 - the user gets one line for any bug
            return print_failure(error)
    return status if isinstance(status, int) else 0


def print_failure(error: Exception) -> int:
    """Print one line for an error; returns the exit status."""
    message, status, hint = translated(error), 1, ""
    # torch has its own class for this; importing torch to name it would be slow.
    full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if isinstance(error, UnusedCliTokensError):
        extra = " ".join(map(quoted, error.unused_tokens or ()))
        message, status, hint = tr("expected no more arguments, got {extra}", extra=extra), 2, HELP
    elif isinstance(error, CycloptsError):
        message, status, hint = mistake_in(" ".join(message.split())), 2, HELP
    elif isinstance(error, HornbookError):
        status = error.exit_code
    elif full or "can't allocate memory" in message:
        error.__traceback__ = None  # its frames keep the memory allocated
        message = translated(OUT_OF_MEMORY)
    elif isinstance(error, OSError):
        abandon_output()
        message = f"{error.filename or tr('input or output')}: {translated(reason(error))}"
    elif os.environ.get("HORNBOOK_DEBUG"):
        raise error
    else:
        bug = f"{type(error).__name__}: {' '.join(message.split())}"
        message = tr("a bug in hornbook: {bug}", bug=bug)
        hint = msg("HORNBOOK_DEBUG=1 shows the traceback")
    if status == 2 and Job.of_environment().rank:
        return status  # all of torchrun's processes have the same command; the first one says it
    return print_error(message, status, translated(hint))


STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


def handle_signals() -> None:
    """End the command on Ctrl-C, SIGTERM and SIGHUP as an error would: files closed, state saved.

    A signal that is ignored, as under nohup, stays ignored.
    """
    for name in STOPPING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, exit_on_signal)
    if sys.unraisablehook is not resend_signal:
        earlier_hooks.append(sys.unraisablehook)
        sys.unraisablehook = resend_signal


earlier_hooks: "list[Callable[[sys.UnraisableHookArgs], object]]" = []


def resend_signal(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send a signal again that arrived in a destructor.

    Python prints and drops an exception raised there, so Ctrl-C would have no effect.
    """
    error = unraisable.exc_value
    if isinstance(error, KeyboardInterrupt):
        number = int(signal.SIGINT)
    elif isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        number = error.code - 128
    else:
        earlier_hooks[-1](unraisable)
        return
    handle_signals()
    # From another thread: raised here, it would be dropped again. Windows' os.kill ends a process.
    send = signal.raise_signal if os.name == "nt" else partial(os.kill, os.getpid())
    threading.Timer(0.01, send, (number,)).start()


def exit_on_signal(number: int, _frame: object) -> NoReturn:
    """Exit with the status that a shell expects: 128 + the signal's number.

    Further signals are ignored, so that they cannot interrupt saving.
    """
    for name in STOPPING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda _number, _frame: None)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """hornbook's warnings as one line each; other warnings in Python's format."""
    if not issubclass(category, HornbookWarning):
        return python_format_warning(message, category, filename, lineno, line)
    grave = category.label == "warning"
    style, label = ("bold yellow", tr("warning")) if grave else ("dim", tr("note"))
    console = errors()
    with console.capture() as written:
        console.print(f"[{style}]{label}:[/] {escape(for_terminal(translated(message)))}")
    return written.get()


def print_error(message: str, status: int, hint: str = "") -> int:
    """Print an error on stderr; returns `status`."""
    message = for_terminal(message)
    shown = f"{escape(message)}" + (f" ({escape(hint)})" if hint else "")
    errors().print(f"[bold red]hornbook:[/] {shown}")
    return status
