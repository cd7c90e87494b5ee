"""`hornbook look`: any model, width and encoding, JSON, and what cannot be looked at."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import hornbook
from small import small_config

import hornbook as hb
from hornbook.cli import run as command

TEXT = "to be, or not to be: that is the question. 나의 책\n" * 60


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a joined run, a bigram, and n-grams, of one text."""
    place = tmp_path_factory.mktemp("place")
    text = place / "hamlet.txt"
    text.write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(place / "cache"))
        for name, values in {
            "joined": {"with_counts": True, "order": 4, "n_layer": 2},
            "bigram": {"model": "bigram"},
            "ngram": {"model": "ngram", "order": 3, "steps": 1},
        }.items():
            for _ in hb.train(small_config(text, **values), out=place / name):
                pass
    return place


def test_a_joined_model_shows_attention_lens_votes_and_attribution(place: Path) -> None:
    done = hornbook("look", "joined", "to be, or no", "--layer", "1", "--head", "0", cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr
    shown = done.stdout.decode()
    assert "Layer 1, head 0" in shown
    rows = [line for line in shown.splitlines() if line.startswith("'")]
    assert len(rows) == len("to be, or no")
    # The first position can only attend to itself.
    assert rows[0].split() == ["'t'", "██"]
    for part in ("layer 0", "network", "ngrams", "cache", "gate", "blocks.", "The logit of"):
        assert part in shown
    assert " times in the training text" in shown
    seen = hb.load(place / "joined").look("to be, or no")
    token, p = seen.top(1)[0]
    assert f"{token!r}" in shown
    assert f"{p:.1%}" in shown


@pytest.mark.parametrize("name", ["bigram", "ngram"])
def test_a_model_without_attention_shows_what_it_has(place: Path, name: str) -> None:
    done = hornbook("look", name, "to be", cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    assert b"What comes next" in done.stdout
    assert b"attends" not in done.stdout
    refused = hornbook("look", name, "to be", "--layer", "0", cwd=place)
    assert refused.returncode == 2
    assert refused.stderr.count(b"\n") == 1
    assert b"--layer 0: the model has no layer" in refused.stderr


def test_json_holds_every_array(place: Path) -> None:
    done = hornbook("look", "joined", "-", "--json", cwd=place, stdin="not 나의".encode())
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.count(b"\n") == 1
    found = json.loads(done.stdout)
    seen = hb.load(place / "joined").look("not 나의")
    assert found["text"] == "not 나의"
    assert found["components"] == list(seen.components)
    for name in ("probs", "attention", "logit_lens", "residual", "attribution"):
        np.testing.assert_allclose(found[name], getattr(seen, name), rtol=1e-5, atol=1e-6)
    for name, vote in seen.votes.items():
        np.testing.assert_allclose(found["votes"][name]["weight"], vote.weight, rtol=1e-5)
    assert found["votes"]["ngrams"]["count"] == seen.votes["ngrams"].count.tolist()


def test_any_width_and_encoding_will_do(place: Path) -> None:
    for width in ("20", "200"):
        plain = {"COLUMNS": width, "PYTHONIOENCODING": "ascii"}
        done = hornbook("look", "joined", "나의 책, or not to be" * 3, cwd=place, **plain)
        assert done.returncode == 0, done.stderr.decode()
        shown = done.stdout.decode("ascii")
        rows = [line for line in shown.splitlines() if line.startswith("'")]
        assert rows
        assert max(map(len, rows)) <= int(width)
        assert "##" in shown


def test_a_terminal_gets_colours_unless_it_refuses_them(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = []
    for refused in (False, True):
        if refused:
            monkeypatch.setenv("NO_COLOR", "1")
        assert command(["look", str(place / "joined"), "to be"]) == 0
        shown.append(capsys.readouterr().out)
    assert "\x1b[38;5;" in shown[0]
    assert "38;5;" not in shown[1]
    assert "██" in shown[1]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("joined", "be ©"), 1, "does not know '©'"),
        (("joined", "to", "--token", "to"), 2, "expected one token to attribute"),
        (("joined", "to", "--head", "7"), 2, "--head 7: the model has heads 0 to"),
        (("joined", "to", "--layer", "2"), 2, "--layer 2: the model has layers 0 to 1"),
        (("missing", "to"), 1, "missing"),
        (("empty", "to"), 1, "empty"),
        (("joined", "to be " * 1000), 1, "at once: look at a shorter text"),
    ],
)
def test_what_cannot_be_looked_at_is_said(
    place: Path,
    arguments: tuple[str, ...],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    (place / "empty").mkdir(exist_ok=True)
    assert command(["look", *arguments]) == status
    printed = capsys.readouterr()
    assert not printed.out
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_a_run_without_weights_or_with_damaged_ones_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("empty", "damaged"):
        copy = tmp_path / name
        shutil.copytree(place / "bigram", copy)
        for weights in sorted(copy.glob("checkpoints/*/*.safetensors")):
            if name == "damaged":
                weights.write_bytes(weights.read_bytes()[:-4])
        if name == "empty":
            shutil.rmtree(copy / "checkpoints")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.showwarning", lambda *_: None)
            assert command(["look", str(copy), "to be"]) == 1
        assert capsys.readouterr().err.strip().count("\n") == 0


def test_unknown_characters_are_replaced_where_that_is_asked_for(place: Path) -> None:
    done = hornbook("look", "bigram", "be © to", "--unknown", "skip", "--json", cwd=place)
    assert done.returncode == 0
    assert json.loads(done.stdout)["text"] == "be  to"
    assert b"note:" in done.stderr
