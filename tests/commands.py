"""The environment of commands that tests run as processes."""

import os
from pathlib import Path


def environment(cwd: Path, **more: str) -> dict[str, str]:
    """This process's, without hornbook's own variables, and a cache of the test's own."""
    inherited = {key: value for key, value in os.environ.items() if "HORNBOOK" not in key}
    return inherited | {"HORNBOOK_CACHE_DIR": str(cwd / "cache")} | more
