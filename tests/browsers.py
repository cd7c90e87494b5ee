"""A real browser for tests: Debian's Chromium, driven by playwright."""

import os
import shutil
from importlib.resources import files
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def launched(playwright: Any) -> Any:
    """A Chromium. Its sandbox needs rights that root in a container does not have."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


def violations(tab: Any, *rules: str) -> list[tuple[str, str]]:
    """What axe-core finds serious in a page: each rule, with the first element that breaks it.

    By all rules, or by those that are named.
    """
    if tab.evaluate("typeof axe") == "undefined":
        tab.evaluate((files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    options: dict[str, object] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = {"type": "rule", "values": rules}
    found = tab.evaluate("options => axe.run(document, options)", options)
    serious = ("serious", "critical")
    return [
        (each["id"], each["nodes"][0]["html"][:200])
        for each in found["violations"]
        if each["impact"] in serious
    ]
