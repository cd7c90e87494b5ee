"""The page in front of the server: its own files, and what it needs to run a model in a browser.

Choosing what a page holds imports torch, which serving itself does not need.
"""

import base64
import subprocess
import sys
from importlib.resources import files
from typing import Literal

import msgspec

from hornbook.errors import CheckpointError, ConfigError, HornbookError
from hornbook.language import msg
from hornbook.page.document import script, style
from hornbook.runs.folder import RunFolder, open_run
from hornbook.serve.errors import ApiError

# How the process of `contents_apart` ends when there are none.
NO_PAGE, FAILED = 3, 1
# The page's files by path, and their types.
STATIC = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript"}


def static(path: str) -> str:
    """One of the page's files."""
    if path == "/":
        return (files("hornbook.serve") / "page.html").read_text(encoding="utf-8")
    return style() if path == "/page.css" else script("server")


def contents(folder: RunFolder, which: Literal["best", "last"]) -> bytes:
    """Facts and numbers of a run's model. It imports torch, and takes a second or more.

    Raises: ApiError with the code no_page for a model that does not fit; CheckpointError.
    """
    from hornbook.runs.load import load

    trained = load(folder.path, which=which)
    from hornbook.page.contents import gather  # not for a damaged run

    try:
        about, numbers, _ = gather(trained)
    except ConfigError as error:
        raise no_page(str(error)) from None
    about["served"] = len(numbers)
    return msgspec.json.encode({"about": about, "numbers": base64.b64encode(numbers).decode()})


def contents_apart(folder: RunFolder, which: Literal["best", "last"]) -> bytes:
    """`contents`, by a process of its own: torch takes 250 MB, and its import holds all streams up.

    Raises: as `contents`.
    """
    # -P: not what lies in the working directory.
    command = [sys.executable, "-P", "-m", "hornbook.serve.page", str(folder.path), which]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    if done.returncode == NO_PAGE:
        raise no_page(done.stdout.decode())
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise CheckpointError(
            done.stdout.decode()
            or msg("{path}: no page was made: {last}", path=folder.path, last=last)
        )
    return done.stdout


def no_page(why: str) -> ApiError:
    """The error of a model that runs on the server alone."""
    return ApiError(404, why, param="model", code="no_page")


def main(path: str, which: str) -> int:
    """Write `contents` to stdout, or why there are none."""
    try:
        found = contents(open_run(path), "last" if which == "last" else "best")
    except HornbookError as error:
        sys.stdout.write(str(error))
        return NO_PAGE if isinstance(error, ApiError) else FAILED
    sys.stdout.buffer.write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
