"""The short form of every benchmark runs, in a separate process."""

import json
from pathlib import Path
from typing import get_args

import pytest
from commands import hornbook

from hornbook.cli import run as command
from hornbook.cli.bench import Subject

ROOT = Path(__file__).parents[2]
# Their short forms take half a minute to a minute each.
LONG = ("busy", "halves", "minutes", "page", "predict", "prepare", "processors", "text")


@pytest.mark.parametrize("subject", get_args(Subject))
def test_every_benchmark_has_a_short_form(
    subject: str, data_dir: Path, tmp_path: Path, long_form: bool
) -> None:
    if subject in LONG and not long_form:
        pytest.skip("in the long form")
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("the benchmarks are only in a clone")
    settings = {"HORNBOOK_DATA_DIR": str(data_dir)}
    done = hornbook("bench", subject, "--short", "--json", cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr.decode()
    rows = json.loads(done.stdout)[subject]
    assert len({row["what"] for row in rows}) > 1
    assert all(row["ours"] > 0 for row in rows)
    assert any(row["peer"] or row["ceiling"] for row in rows)
    assert all(row["ratio"] > 0 for row in rows if row["peer"])


def test_a_paq8px_that_fails_or_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("the benchmarks are only in a clone")
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.predict import paq8px_size

    program = tmp_path / "paq8px"
    program.write_text('#!/bin/sh\nhead -c 7 "$2" > "$2.paq8px216"\n', encoding="utf-8")
    program.chmod(0o755)
    assert paq8px_size(program, b"to be, or not to be") == 7
    program.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="status 3"):
        paq8px_size(program, b"to be")
    assert command(["bench", "predict", "--paq8px", str(tmp_path / "none")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert command(["bench", "startup", "--seeds", "2"]) == 2
    assert "only hornbook bench predict" in capsys.readouterr().err


def test_the_goals_for_a_gpu_have_a_short_form() -> None:
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("the benchmarks are only in a clone")
    from benchmarks.gpu import known_gpu, measure

    rows = measure(short=True)
    assert [row.unit for row in rows] == ["s", "tokens/s", "share of peak"]
    assert "not reached" in rows[0].note
    assert all(row.ours > 0 for row in rows)
    found = known_gpu("NVIDIA H100 80GB HBM3")
    assert found
    assert found.name.startswith("H100")
    assert known_gpu("NVIDIA GeForce RTX 4090") is not None
    for other in ("Tesla K80", "NVIDIA H100 PCIe"):  # half the power, and another peak
        assert known_gpu(other) is None
