"""The short and the long form of the fault harness, its processes, and its table of figures.

pytest tests/faults           a few minutes, as CI runs it
pytest tests/faults --long    the full counts, and a table of what was tried
"""

import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Processes


@pytest.fixture(scope="session")
def count(long_form: bool) -> Callable[[int, int], int]:
    """How many trials: the first number in the short form, the second in the long one."""
    return lambda few, many: many if long_form else few


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Adds a row to the table of figures: what was done how often, and what held."""
    return lambda fault, figures: record_property("fault", (fault, figures))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The test's own seeded choice of instants, places and bits: the same on every run."""
    return random.Random(request.node.name)


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Where trials run: each a real process, forked in milliseconds."""
    with Processes(tmp_path_factory.mktemp("processes")) as made:
        yield made


@pytest.fixture(scope="session")
def mounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Like `processes`, for trials that mount file systems which nobody else sees."""
    apart = ("unshare", "--map-root-user", "--mount")
    try:
        tried = subprocess.run(
            [*apart, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
        )
        works = tried.returncode == 0
    except OSError:
        works = False
    if not works:
        pytest.skip("this system lets no process mount a file system of its own")
    with Processes(tmp_path_factory.mktemp("mounting"), apart) as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    rows = [value for r in reports for name, value in r.user_properties if name == "fault"]
    if rows:
        terminalreporter.section("faults")
        for fault, figures in rows:
            terminalreporter.write_line(f"| {fault} | {figures} |")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Where a trial's run folder goes."""
    return tmp_path / "run"
