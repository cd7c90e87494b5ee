"""The runs that the server's tests serve, and a server of them for those that change nothing."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Local, serving
from small import TEXT, small_config

from hornbook.training.conclude import conclude
from hornbook.training.loop import steps
from hornbook.training.trainer import begin

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A GPT, one with n-grams and a bigram model, that were trained for a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "hamlet.txt"
    text.write_text(TEXT, encoding="utf-8")
    trainer = begin(small_config(text, compile="off"), out=folder / "gpt")
    list(steps(trainer))
    conclude(trainer)
    shutil.copytree(FIXTURES / "run-with-counts", folder / "mixture")
    shutil.copytree(FIXTURES / "run-format-1", folder / "bigram")
    return [folder / name for name in ("gpt", "mixture", "bigram")]


@pytest.fixture(scope="module")
def local(runs: list[Path]) -> Iterator[Local]:
    """A server of all three."""
    with serving(runs) as server:
        yield server
