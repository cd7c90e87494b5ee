"""The page in front of the server: its own files, and what it needs to run a model in a browser.

`hornbook.page` imports torch, which serving itself does not need: it is imported for the first
browser.
"""

import base64
from importlib.resources import files
from typing import Literal

import msgspec

from hornbook.errors import ConfigError
from hornbook.runs.folder import RunFolder
from hornbook.serve.errors import ApiError

# The page's files by path, and their types.
STATIC = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript"}


def static(path: str) -> str:
    """One of the page's files."""
    if path == "/":
        return (files("hornbook.serve") / "page.html").read_text(encoding="utf-8")
    from hornbook.page.document import script, style

    return style() if path == "/page.css" else script("server")


def contents(folder: RunFolder, which: Literal["best", "last"]) -> bytes:
    """Facts and numbers of a run's model. It imports torch, and takes a second or more.

    Raises: ApiError with the code no_page for a model that does not fit; CheckpointError.
    """
    from hornbook.page.contents import gather
    from hornbook.runs.load import load

    try:
        about, numbers, _ = gather(load(folder.path, which=which))
    except ConfigError as error:
        raise no_page(str(error)) from None
    about["served"] = len(numbers)
    return msgspec.json.encode({"about": about, "numbers": base64.b64encode(numbers).decode()})


def no_page(why: str) -> ApiError:
    """The error of a model that runs on the server alone."""
    return ApiError(404, why, param="model", code="no_page")
