"""The command line: each command in a module of its own, imported only when it runs."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError
from rich.console import Console
from rich.markup import escape

from hornbook import __version__
from hornbook.errors import HornbookError

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
    "trace": "Show what a model's words are copied from, and from where.",
    "ladder": "Train every rung between a bigram and a GPT, and compare them.",
    "explain": "Show an idea at work, in its own figures.",
    "corpora": "List the texts known by name, and which are here.",
    "doctor": "Say what this machine offers and what training will use.",
}.items():
    app.command(f"hornbook.cli.{command}:run", name=command, help=summary)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 failed, 2 asked wrongly, 3 diverged, 130 interrupted."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit status. Every error is one message on stderr."""
    # A service manager's SIGTERM, or a closed terminal, leaves like an error does: files closed,
    # state saved.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), exit_on_signal)
    try:
        app(list(arguments))
        sys.stdout.flush()
    except CycloptsError as error:
        return complain(" ".join(str(error).split()), 2, hint="hornbook --help shows how")
    except HornbookError as error:
        return complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has seen enough. Python would flush stdout once more at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return complain(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except Exception as error:
        if os.environ.get("HORNBOOK_DEBUG"):
            raise
        where = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return complain(f"a bug in hornbook: {where}", 1, "HORNBOOK_DEBUG=1 shows the traceback")
    return 0


def exit_on_signal(number: int, _frame: object) -> NoReturn:
    """Leave with the status a shell expects: 128 + the signal's number."""
    sys.exit(128 + number)


def complain(message: str, status: int, hint: str = "") -> int:
    """Print an error for a person to stderr; gives `status` back."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"[bold red]hornbook:[/] {escape(message)}" + (f" ({escape(hint)})" if hint else "")
    )
    return status
