"""Commands that tests run as processes."""

import os
import subprocess
import sys
from pathlib import Path


def environment(cwd: Path, **more: str) -> dict[str, str]:
    """This process's, without hornbook's own variables, and a cache of the test's own."""
    inherited = {key: value for key, value in os.environ.items() if "HORNBOOK" not in key}
    return inherited | {"HORNBOOK_CACHE_DIR": str(cwd / "cache")} | more


def hornbook(
    *arguments: str | Path, cwd: Path, stdin: bytes = b"", **more: str
) -> "subprocess.CompletedProcess[bytes]":
    """`hornbook` with these arguments, and with variables of its own."""
    return subprocess.run(
        [sys.executable, "-m", "hornbook", *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=environment(cwd, **more),
        timeout=120,
        check=False,
    )
