"""What goes into a page: precisions, pruned n-grams, sizes, and what the command says."""

import errno
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_config

import hornbook as hb
from hornbook import page as pages
from hornbook.cli import run as hornbook_command
from hornbook.errors import CheckpointError
from hornbook.ngram.model import NGramModel, Smoothing
from hornbook.page.document import ENTRIES, MODULES, Kind, document, script
from hornbook.page.ngrams import in_bytes, occurrences, prune, selected
from hornbook.page.packing import Pack, Precision, planes, round_trip
from hornbook.storage.disk import Disk

TOKENS = np.random.default_rng(0).integers(0, 7, 400) % np.random.default_rng(1).integers(1, 8, 400)


@pytest.mark.parametrize("smoothing", ["kneser-ney", "witten-bell", "add-k"])
@given(most=st.integers(5, 900))
@settings(max_examples=15, deadline=None)
def test_pruned_tables_are_distributions_still(smoothing: Smoothing, most: int) -> None:
    model = NGramModel.fit(TOKENS, 7, order=4, smoothing=smoothing).rounded()
    kept = selected(model, prune(model, most))
    assert kept.order == model.order
    smallest = selected(model, prune(model, 0)).n_grams
    assert smallest <= kept.n_grams <= max(most, smallest)
    for each in (kept, in_bytes(kept)):
        again = NGramModel.from_arrays(each.arrays())  # which checks all levels
        for place in range(0, 400, 37):
            assert again.probs(TOKENS[:place]).sum() == pytest.approx(1, abs=1e-4)


def test_pruning_takes_what_matters_least() -> None:
    model = NGramModel.fit(TOKENS, 7, order=4).rounded()
    losses = [
        selected(model, prune(model, most)).cross_entropy(TOKENS) for most in (700, 300, 100, 40)
    ]
    assert losses == sorted(losses)
    # Worse at random.
    mask = [np.random.default_rng(2).random(len(level.keys)) < 0.5 for level in model.levels]
    mask[0][:] = True
    for n in range(len(mask) - 1, 0, -1):
        mask[n - 1][model.levels[n].keys[mask[n]] // 7] = True
    at_random = selected(model, mask)
    by_cost = selected(model, prune(model, at_random.n_grams))
    assert by_cost.cross_entropy(TOKENS) < at_random.cross_entropy(TOKENS)


def test_everything_is_kept_where_it_fits() -> None:
    model = NGramModel.fit(TOKENS, 7, order=4).rounded()
    whole = selected(model, prune(model, model.n_grams))
    for one, other in zip(whole.levels, model.levels, strict=True):
        np.testing.assert_array_equal(one.keys, other.keys)
        np.testing.assert_allclose(one.probs, other.probs, rtol=1e-6)
        np.testing.assert_allclose(one.backoff, other.backoff, atol=1e-6)


def test_occurrences_are_those_of_the_text_that_was_counted() -> None:
    model = NGramModel.fit(TOKENS, 7, order=3)
    found = occurrences(model, TOKENS)
    pairs = [tuple(TOKENS[i : i + 2]) for i in range(len(TOKENS) - 1)]
    number = int(model.levels[1].keys.searchsorted(model.number(0, 0, 1) * 7 + 2))
    assert found[1][number] == pairs.count((1, 2)) > 0
    assert found[0].sum() == len(TOKENS)
    assert occurrences(model, TOKENS[:100]) == []


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30))
def test_rounded_weights_are_near(values: list[float]) -> None:
    row = np.array([values], np.float32)
    assert (round_trip(row, "float32") == row).all()
    assert (abs(round_trip(row, "bfloat16") - row) <= abs(row) / 256 + 1e-37).all()
    assert (abs(round_trip(row, "int8") - row) <= abs(row).max() / 253 + 1e-37).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_a_pack_holds_every_array_once(precision: Precision) -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    pack = Pack()
    pack.add_weights({"table": table, "gain": np.ones(4, np.float32), "tied": table}, precision)
    first, gain, tied = pack.index
    assert tied == {**first, "name": "tied"}
    assert gain["kind"] == "float32"
    data = zlib.decompress(pack.compressed())
    size = {"float32": 48, "bfloat16": 24, "int8": 12 + 12}[precision]
    assert len(data) == size + 16
    assert data[size:] == planes(np.ones(4, np.float32))


@pytest.mark.parametrize("kind", ["file", "server"])
def test_modules_import_only_what_stands_before_them(kind: Kind) -> None:
    here, names = Path(pages.__file__).parent, (*MODULES, *ENTRIES[kind])
    for at, name in enumerate(names):
        for line in (here / f"{name}.js").read_text(encoding="utf-8").splitlines():
            if line.startswith("import "):
                assert line.split('"./')[1].removesuffix('.js";') in names[:at], (name, line)
    assert "import " not in "".join(line[:7] for line in script(kind).splitlines())


def test_every_module_is_in_a_page() -> None:
    entries = {name for names in ENTRIES.values() for name in names}
    assert {path.stem for path in Path(pages.__file__).parent.glob("*.js")} == {*MODULES, *entries}


def test_a_page_is_one_file_with_a_strict_policy() -> None:
    page = document({"name": "a", "text": "</script>"}, b"")
    policy = page.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.count("</script>") == 3
    assert "http://" not in page
    assert "https://" not in page


class Full(Disk):
    """A disk with room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write_some(self, descriptor: int, data: memoryview) -> int:
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return super().write_some(descriptor, data)


def test_training_writes_a_page_and_links_to_it(
    text_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(small_config(text_path, steps=2).to_toml(), encoding="utf-8")
    for name, more in (("with", ()), ("without", ("--no-page",))):
        out = tmp_path / name
        words = ["train", "--config", str(config), "--out", str(out), "-q", *more]
        assert hornbook_command(words) == 0
        linked = 'href="page.html"' in (out / "report.html").read_text(encoding="utf-8")
        assert linked == (out / "page.html").exists() == (name == "with")
    assert str(tmp_path / "with" / "page.html") in "".join(capsys.readouterr().out.split("\n"))

    run, page = tmp_path / "with", tmp_path / "with" / "page.html"
    old = page.read_bytes()
    with pytest.raises(CheckpointError, match=r"page\.html: cannot write [\d,]+ bytes: No space"):
        pages.write(hb.load(run), disk=Full(1000))
    assert page.read_bytes() == old
    assert not list(run.glob(".writing*"))

    assert hornbook_command(["page", str(run), "-o", str(tmp_path / "a.html"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == (tmp_path / "a.html").stat().st_size
    assert facts["loss"] == facts["full_loss"]
    assert hornbook_command(["page", str(run), "--weights", "int8"]) == 0
    assert "weights in int8" in capsys.readouterr().err


def test_errors_are_one_line(
    text_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for _ in hb.train(small_config(text_path, steps=1), out=run):
        pass
    for words, status, said in (
        (["page", str(tmp_path / "none")], 1, "not a run folder"),
        (["page", str(run), "--size", "big"], 2, "expected a size"),
        (["page", str(run), "--size", "1GB"], 2, "expected a size"),
        (["page", str(run), "-o", str(tmp_path / "no" / "a.html")], 1, "cannot write"),
    ):
        assert hornbook_command(words) == status
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
    for path in run.glob("checkpoints/*/model.safetensors"):
        path.unlink()
    assert hornbook_command(["page", str(run)]) == 1
    assert "hornbook:" in capsys.readouterr().err


def test_network_only_holds_no_text(
    text_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "page.html"
    for _ in hb.train(small_config(text_path, steps=1, with_counts=True, order=3), out=run):
        pass
    made = pages.write(hb.load(run), out, network_only=True)
    assert made.kept.n_grams == 0
    assert made.kept.all_n_grams > 0
    assert made.kept.loss != made.kept.full_loss
    page = out.read_text(encoding="utf-8")
    assert "question" not in page.split('id="about"')[1].split("</script>")[0]
    assert any("network alone" in each for each in made.kept.sentences())
    for _ in hb.train(small_config(text_path, model="ngram", steps=1), out=tmp_path / "ngram"):
        pass
    assert hornbook_command(["page", str(tmp_path / "ngram"), "--network-only"]) == 2
    assert "nothing else" in capsys.readouterr().err
