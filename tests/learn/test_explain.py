"""`hornbook explain`: figures that are the same on any machine, and those of the notebook."""

import json
import math
from pathlib import Path

import pytest
import torch

import hornbook as hb
from hornbook.cli import run as hornbook_command
from hornbook.errors import ConfigError
from hornbook.learn import explain

TEXT = "to be, or not to be: that is the question. whether 'tis nobler in the mind\n" * 20


@pytest.fixture
def bigram_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "hamlet.txt"
    path.write_text(TEXT, encoding="utf-8")
    config = hb.preset("bigram").override(corpus=str(path), steps=20, learning_rate=0.1)
    list(hb.train(config, out=tmp_path / "run"))
    return tmp_path / "run"


def test_the_forms_differ_by_rounding_and_only_float32_fails_allclose() -> None:
    found = explain.averaging()
    by_name = {(each.forms, each.precision): each for each in found.differences}
    assert len(by_name) == 6
    single = by_name[("loop", "matrix"), "float32"]
    assert not single.allclose
    assert 0 < single.largest.difference < 3.3e-8
    assert [entry.place for entry in single.beyond_tolerance] == [(1, 5, 1)]
    culprit = single.beyond_tolerance[0]
    assert abs(culprit.other) < 0.01
    assert culprit.difference > culprit.tolerance
    assert culprit.tolerance == pytest.approx(1e-8 + 1e-5 * abs(culprit.other))
    assert all(each.allclose for each in found.differences if each.precision == "float64")


def test_the_notebooks_three_by_three_example() -> None:
    found = explain.averaging()
    assert found.example_b == [[2, 7], [6, 4], [6, 5]]
    assert [[round(value, 4) for value in row] for row in found.example_c] == [
        [2, 7],
        [4, 5.5],
        [4.6667, 5.3333],
    ]
    assert [sum(row) for row in found.example_a] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_in_the_last_place_count_the_floats_between(dtype: torch.dtype) -> None:
    one = torch.tensor([1.0, -1.0, 0.0, 2.0], dtype=dtype)
    step = torch.finfo(dtype).eps
    tiny = torch.finfo(dtype).smallest_normal * step  # the least float above 0
    other = torch.tensor([1 + 3 * step, -1 - step, -tiny, 2.0], dtype=dtype)
    assert explain.units_in_the_last_place(one, other).tolist() == [3, 1, 1, 0]
    assert explain.units_in_the_last_place(other, one).tolist() == [3, 1, 1, 0]
    across = torch.tensor([-tiny], dtype=dtype), torch.tensor([tiny], dtype=dtype)
    assert explain.units_in_the_last_place(*across).tolist() == [2]


def test_compare_agrees_with_allclose() -> None:
    one = torch.tensor([[[1.0, 0.0]]])
    found = explain.compare(("a", "b"), one, one + torch.tensor([0.0, 5e-8]))
    assert not found.allclose
    assert (found.differing, found.entries) == (1, 2)
    assert [entry.place for entry in found.beyond_tolerance] == [(0, 0, 1)]
    assert explain.compare(("a", "b"), one, one.clone()).allclose


def test_a_counted_table_is_explained_without_training(bigram_run: Path) -> None:
    corpus = hb.load(bigram_run).config.data.corpus
    found = explain.bigram(corpus)
    assert found.trained is None
    assert found.pairs == int(0.9 * len(TEXT)) - 1
    assert found.uniform_loss == pytest.approx(math.log(len(set(TEXT))))
    assert found.rows[0].token == " "
    assert [row.count for row in found.rows] == sorted(
        (row.count for row in found.rows), reverse=True
    )
    after_t = next(row for row in found.rows if row.token == "t").followers
    assert {each.token for each in after_t} <= set(TEXT)
    assert all(each.trained is None for each in after_t)


def test_the_trained_tables_loss_is_its_loss_over_the_training_text(bigram_run: Path) -> None:
    found = explain.bigram(run=bigram_run)
    trained = hb.load(bigram_run, which="last")
    cut = int(0.9 * len(TEXT))
    exact = trained.evaluate_text(TEXT[:cut]).nats_per_token
    assert found.trained is not None
    assert found.trained.loss == pytest.approx(exact, abs=1e-5)
    assert found.trained.left == pytest.approx(exact - found.best_loss, abs=1e-5)
    assert found.best_loss < found.trained.loss < found.trained.loss_at_birth
    assert 0 < found.trained.way_gone < 1


def test_the_gaps_of_the_rows_sum_to_what_is_left(bigram_run: Path) -> None:
    found = explain.bigram(run=bigram_run, rows=1000)
    gaps = [row.gap_nats for row in found.rows if row.gap_nats is not None]
    assert found.trained is not None
    assert sum(gaps) == pytest.approx(found.trained.left, abs=1e-9)
    assert gaps == sorted(gaps, reverse=True)
    assert min(gaps) >= 0


def test_only_a_bigram_run_is_explained_as_one(tmp_path: Path, bigram_run: Path) -> None:
    corpus = hb.load(bigram_run).config.data.corpus
    config = hb.preset("average").override(corpus=corpus, steps=1)
    list(hb.train(config, out=tmp_path / "other"))
    with pytest.raises(ConfigError, match="expected a bigram run, got model = 'average'"):
        explain.bigram(run=tmp_path / "other")


@pytest.mark.parametrize("arguments", [[], ["averaging"], ["bigram", "--run", "RUN"]])
def test_the_command_prints_text_or_one_json_object(
    arguments: list[str], bigram_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["explain", *(str(bigram_run) if each == "RUN" else each for each in arguments)]
    assert hornbook_command(arguments) == 0
    assert len(capsys.readouterr().out) > 100
    assert hornbook_command([*arguments, "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)


@pytest.mark.parametrize(
    "arguments",
    [
        ["rope"],
        ["averaging", "some.txt"],
        ["averaging", "--run", "x"],
        ["bigram", "x", "--run", "y"],
    ],
)
def test_the_command_refuses_what_makes_no_sense(arguments: list[str]) -> None:
    assert hornbook_command(["explain", *arguments]) == 2


def test_a_text_to_count_is_read_with_the_options_of_train(
    bigram_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(json.dumps({"text": f"{line} é"}) + "\n" for line in TEXT.splitlines())
    (tmp_path / "rows.jsonl").write_bytes(rows.encode("utf-16-le"))
    options = ["--encoding", "utf-16-le", "--field", "text", "--normalize", "nfd", "--json"]
    explained = ["explain", "bigram", str(tmp_path / "rows.jsonl")]
    assert hornbook_command([*explained, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    # U+001E stands between documents, and é is two characters.
    assert found["vocab_size"] == len({*TEXT, "\x1e", "\N{COMBINING ACUTE ACCENT}"} - {"\n"})
    assert hornbook_command(["explain", "bigram", "--run", str(bigram_run), *options]) == 2
    assert "--run uses the text of its run, read as the run does" in capsys.readouterr().err
    assert hornbook_command(["explain", "averaging", *options]) == 2
