"""The command line: each command in a module of its own, imported only when it runs."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError
from rich.console import Console
from rich.markup import escape

from hornbook import __version__
from hornbook.errors import HornbookError, HornbookWarning, for_terminal

as_python_does = warnings.formatwarning
app = App(
    name="hornbook",
    help="Language models from letters up, that you can see through.",
    version=__version__,
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
for command, summary in {
    "train": "Train a model on a text.",
    "sample": "Let a trained model write.",
    "eval": "Measure a trained model's exact loss.",
    "report": "Make a run's report card again, or compare runs.",
    "trace": "Show what a model's words are copied from, and from where.",
    "verify": "Check every file of a run.",
    "ladder": "Train every rung between a bigram and a GPT, and compare them.",
    "explain": "Show an idea at work, in its own figures.",
    "corpora": "List the texts known by name, and which are here.",
    "bench": "Measure this machine, beside other programs on it.",
    "doctor": "Say what this machine offers and what training will use.",
}.items():
    app.command(f"hornbook.cli.{command}:run", name=command, help=summary)


OUT_OF_MEMORY = "this takes more memory than there is; a smaller model, batch or text takes less"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 failed, 2 asked wrongly, 3 diverged, 128 + a signal."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit status. Every error is one message on stderr."""
    status = 0
    listen()
    warnings.formatwarning = format_warning
    try:
        status = app(list(arguments))
        sys.stdout.flush()
    except CycloptsError as error:
        return complain(" ".join(str(error).split()), 2, hint="hornbook --help shows how")
    except HornbookError as error:
        return complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader has seen enough. Python would flush stdout once more at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return complain(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets a line
        return surprised(error)
    return status if isinstance(status, int) else 0


def surprised(error: Exception) -> int:
    """One line for what no part of hornbook foresaw; the exit status."""
    # torch has kinds of its own for a full memory; importing it for their names would be slow.
    full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if full or "can't allocate memory" in str(error):
        error.__traceback__ = None  # its frames hold what filled the memory
        return complain(OUT_OF_MEMORY, 1)
    if os.environ.get("HORNBOOK_DEBUG"):
        raise error
    where = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return complain(f"a bug in hornbook: {where}", 1, "HORNBOOK_DEBUG=1 shows the traceback")


STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


def listen() -> None:
    """Let Ctrl-C, a service manager's SIGTERM and a closed terminal end us as an error would.

    Files closed, state saved. A signal that is ignored, as under nohup, stays so.
    """
    for name in STOPPING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)
    if sys.unraisablehook is not come_again:
        dropped.append(sys.unraisablehook)
        sys.unraisablehook = come_again


dropped: "list[Callable[[sys.UnraisableHookArgs], object]]" = []


def come_again(lost: "sys.UnraisableHookArgs") -> None:
    """Send a signal once more that struck while an object was being destroyed.

    What is raised there Python prints and drops, and Ctrl-C would have done nothing.
    """
    error = lost.exc_value
    if isinstance(error, KeyboardInterrupt):
        number = int(signal.SIGINT)
    elif isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        number = error.code - 128
    else:
        dropped[-1](lost)
        return
    listen()
    # Not from here: it would be dropped again.
    threading.Timer(0.01, os.kill, (os.getpid(), number)).start()


def leave(number: int, _frame: object) -> NoReturn:
    """Leave with the status a shell expects: 128 + the signal's number.

    From here on another signal waits: it must not tear what is being saved, and the end is near.
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
    """A warning of ours as one line; others as Python has them."""
    if not issubclass(category, HornbookWarning):
        return as_python_does(message, category, filename, lineno, line)
    style = "bold yellow" if category.label == "warning" else "dim"
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with console.capture() as written:
        console.print(f"[{style}]{category.label}:[/] {escape(for_terminal(str(message)))}")
    return written.get()


def complain(message: str, status: int, hint: str = "") -> int:
    """Print an error for a person to stderr; gives `status` back."""
    message = for_terminal(message)
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"[bold red]hornbook:[/] {escape(message)}" + (f" ({escape(hint)})" if hint else "")
    )
    return status
