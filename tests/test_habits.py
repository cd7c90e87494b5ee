"""What the house promises of itself: style, types, and a README that is true."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from caches import cache_in
from commands import hornbook

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
KOREAN_README = ROOT / "README.ko.md"


def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_style_is_the_houses() -> None:
    for arguments in (("ruff", "check", "."), ("ruff", "format", "--check", ".")):
        done = tool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_types_hold() -> None:
    done = tool("pyrefly", "check", "--python-interpreter-path", sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr


def code_blocks(path: Path) -> list[str]:
    """The shell blocks of a page, in order."""
    return re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(path: Path) -> list[str]:
    """The hornbook commands of a page, without their comments."""
    lines = "".join(code_blocks(path)).splitlines()
    ours = [line for line in lines if line.startswith("hornbook")]
    return [shlex.join(shlex.split(line, comments=True)) for line in ours]


def test_ci_runs_the_readmes_own_test_command() -> None:
    lines = "".join(code_blocks(README)).splitlines()
    named = [line for line in lines if "pytest" in line]
    assert len(named) == 1
    assert named[0] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_command_of_the_readme_works(tmp_path: Path, long_form: bool) -> None:
    if not os.environ.get("HORNBOOK_DATA_DIR"):
        pytest.skip("some of the README's commands read shakespeare, from HORNBOOK_DATA_DIR")
    (tmp_path / "my-book.txt").write_text("나의 책. My own book.\n" * 2000, encoding="utf-8")
    # The same commands, made short: settings in the environment lie under flags, over presets.
    short = {
        "HORNBOOK_DATA_DIR": os.environ["HORNBOOK_DATA_DIR"],
        "HORNBOOK_BATCH_SIZE": "2",
        "HORNBOOK_COMPILE": "off",
        "HORNBOOK_COUNTED_TOKENS": "50000",  # by n-grams, and read by the mixer
        "HORNBOOK_EVAL_INTERVAL": "10",
        "HORNBOOK_SAMPLE_TOKENS": "10",
        "HORNBOOK_STEPS": "3",
        "HORNBOOK_VALIDATION_FRACTION": "0.01",  # it is read several times
    }
    for line in commands(README):
        shorter = line.replace("--minutes 2", "--minutes 0.3")
        if not long_form:
            shorter = shorter.replace("--quick", "--quick --rungs bigram,average")
        words = shlex.split(shorter)
        done = hornbook(*words[1:], cwd=tmp_path, **short)
        assert done.returncode == 0, f"{line}\n{done.stdout.decode()}{done.stderr.decode()}"
        assert done.stdout, line


def test_the_readmes_python_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("HORNBOOK_DATA_DIR"):
        pytest.skip("the README's Python reads shakespeare, from HORNBOOK_DATA_DIR")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    program = "\n".join(blocks).replace('preset("laptop")', 'preset("quick").override(steps=3)')
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=os.environ | {"HORNBOOK_CACHE_DIR": cache_in(tmp_path)},
        check=True,
        timeout=300,
    )


def test_the_korean_readme_keeps_step() -> None:
    assert code_blocks(KOREAN_README), "README.ko.md has commands"
    assert commands(KOREAN_README) == commands(README)
    assert [block for block in code_blocks(KOREAN_README) if "pip" in block] == [
        block for block in code_blocks(README) if "pip" in block
    ]


def test_changes_are_told() -> None:
    import hornbook

    assert f"## {hornbook.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
