"""What several test files share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import CHROMIUM, launched
from caches import SHARED, cache_in, compile_once
from small import TEXT

# Three workers (many tests wait for processes) with a thread each, in this process and in all it
# starts: small tensors gain nothing from more, and threads that wait for each other's cores slow
# all down several times.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job ignores Ctrl-C, and so would all that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Read before any test can set it to a folder of its own.
DATA_DIR = os.environ.get("HORNBOOK_DATA_DIR")

# No test may need, or obey, a setting of whoever runs it: a missing cache folder failed only in CI.
for name in [name for name in os.environ if name.startswith("HORNBOOK_")]:
    if name != "HORNBOOK_DATA_DIR":
        del os.environ[name]
for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
    if os.environ.get(name, "").startswith("ko"):  # hornbook would answer in Korean
        os.environ[name] = "C.UTF-8"

# They begin first, the longest before the others, so that no worker is alone with one at the end.
LONGEST = (
    "test_docs", "test_habits", "test_ranks", "test_commands", "test_bench", "test_fsdp",
    "test_page", "test_training",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the long form, which CI does not run."""
    parser.addoption("--long", action="store_true", help="full counts, and what takes minutes")


@pytest.fixture(scope="session")
def long_form(request: pytest.FixtureRequest) -> bool:
    """Whether the long form of the tests was asked for."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """The C kernels, compiled once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(SHARED))
        compile_once()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture
def data_dir() -> Path:
    """The folder of real corpora, ``<corpus>/input.txt``."""
    if not DATA_DIR:
        pytest.skip("HORNBOOK_DATA_DIR names no folder of corpora")
    return Path(DATA_DIR)


@pytest.fixture
def text_path(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The TEXT of the test's own module, or the shared one, as a file; and a cache of its own."""
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", cache_in(tmp_path))
    path = tmp_path / "hamlet.txt"
    path.write_text(getattr(request.module, "TEXT", TEXT), encoding="utf-8")
    return path


@pytest.fixture
def shakespeare_path(data_dir: Path) -> Path:
    """The file of the tiny Shakespeare corpus."""
    for name in ("shakespeare", "tinyshakespeare"):
        path = data_dir / name / "input.txt"
        if path.exists():
            return path
    pytest.skip(f"{data_dir} has no shakespeare/input.txt")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests of a file."""
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launched(playwright)
        yield browser
        browser.close()
