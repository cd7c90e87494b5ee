"""Memory: what will not fit is refused, with what would."""

from pathlib import Path

import numpy as np
import pytest

import hornbook as hb
from hornbook.config import Config
from hornbook.errors import ConfigError
from hornbook.ngram.model import NGramModel
from hornbook.plan import memory
from hornbook.plan.machine import choose
from hornbook.plan.resolved import with_async_save
from hornbook.text.corpus import read_corpus
from hornbook.text.dataset import prepare

GIB = 2**30


def resolved(name: str) -> Config:
    """A preset as a machine without C kernels and bfloat16 resolves it."""
    return hb.preset(name).override(precision="float32", compile="off", threads=1)


def test_what_fits_is_let_through() -> None:
    memory.check(resolved("laptop"), 65, GIB)
    memory.check(resolved("laptop").override(n_embd=2**30), 65, None)


def test_a_batch_that_would_fit_is_named_and_does() -> None:
    config = resolved("laptop").override(batch_size=4096)
    with pytest.raises(ConfigError, match=r"about [\d,]+ MiB .* 1,024 MiB are available") as caught:
        memory.check(config, 65, GIB)
    fits = int(str(caught.value).partition("batch_size = ")[2].split()[0])
    memory.check(config.override(batch_size=fits), 65, GIB)
    with pytest.raises(ConfigError):
        memory.check(config.override(batch_size=fits + 1), 65, GIB)


def test_a_width_that_would_fit_is_named_and_does() -> None:
    config = resolved("laptop").override(n_embd=2**30)
    with pytest.raises(ConfigError, match="not even batch_size = 1") as caught:
        memory.check(config, 65, GIB)
    width = int(str(caught.value).partition("n_embd = ")[2].split()[0])
    memory.check(config.override(n_embd=width, batch_size=1), 65, GIB)


@pytest.mark.parametrize("order", [3, 8])
@pytest.mark.parametrize("letters", [4, 64])
def test_a_sample_tells_how_much_there_is_to_count(order: int, letters: int) -> None:
    tokens = np.random.default_rng(0).integers(0, letters, 500_000)
    exact = NGramModel.fit(tokens, letters, order=order, smoothing="mle").n_grams
    sampled = memory.Countable.sample(tokens, letters, order)
    assert sum(sampled.n_grams) == pytest.approx(exact, rel=0.3)


@pytest.mark.parametrize("name", ["ngram", "gpt and counts"])
def test_an_order_that_would_fit_is_named_and_does(name: str) -> None:
    beside = name != "ngram"
    config = resolved("quick" if beside else "ngram").override(with_counts=beside)
    text = memory.Countable(5_000_000, tuple(min(20.0**n, 4e6) for n in range(1, 11)))
    memory.check(config, 65, 100 * GIB, text)
    memory.check(config, 65, GIB)
    with pytest.raises(ConfigError, match=r"order = \d") as caught:
        memory.check(config, 65, GIB, text)
    fits = int(str(caught.value).partition("order = ")[2].split()[0])
    memory.check(config.override(order=fits), 65, GIB, text)
    with pytest.raises(ConfigError):
        memory.check(config.override(order=fits + 1), 65, GIB, text)


def test_where_no_order_would_fit_something_else_is_named() -> None:
    text = memory.Countable(100_000_000, (65.0,) * 10)
    with pytest.raises(ConfigError, match="take less text"):
        memory.check(resolved("ngram"), 65, GIB, text)
    beside = resolved("quick").override(with_counts=True)
    with pytest.raises(ConfigError, match="without n-grams it would fit"):
        memory.check(beside, 65, GIB, text)
    memory.check(beside.override(with_counts=False), 65, GIB, text)


def test_a_run_s_own_text_is_what_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path))
    (tmp_path / "a.txt").write_text("to be, or not to be: that is the question\n" * 100)
    config = hb.preset("ngram").override(corpus=str(tmp_path / "a.txt"), order=4)
    dataset = prepare(read_corpus(config.data.corpus), config.data)
    countable = memory.Countable.of(config.model, dataset)
    assert countable is not None
    assert countable.tokens == len(dataset.train)
    assert len(countable.n_grams) == 4
    assert memory.Countable.of(hb.preset("quick").model, dataset) is None


@pytest.mark.parametrize("field", ["n_layer", "batch_size"])
def test_absurd_sizes_are_refused_without_being_tried(field: str) -> None:
    with pytest.raises(ConfigError, match="MiB"):
        memory.check(resolved("laptop").override(**{field: 2**40}), 65, GIB)


def test_only_resolved_settings_have_a_size() -> None:
    """ "auto" would be taken for float32, and half a run's memory be missed or made up."""
    for name in ("precision", "compile"):
        with pytest.raises(ValueError, match="resolved"):
            memory.peak_bytes(resolved("laptop").override(**{name: "auto"}), 65)
    narrow = resolved("laptop").override(compile="c", precision="bfloat16", batch_size=256)
    wide = narrow.override(precision="float32")
    assert memory.peak_bytes(narrow, 65) < memory.peak_bytes(wide, 65)


@pytest.mark.parametrize(
    ("width", "free", "given", "chosen"),
    [
        (512, 64 * GIB, "auto", "on"),
        (512, 64 * GIB, "off", "off"),
        (512, GIB // 3, "auto", "off"),
        (128, 64 * GIB, "auto", "off"),
        (128, 64 * GIB, "on", "on"),
    ],
)
def test_large_checkpoints_are_saved_in_the_background_where_a_copy_fits(
    width: int,
    free: int,
    given: str,
    chosen: str,
    text_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: free)
    config = resolved("laptop").override(
        corpus=str(text_path), device="cpu", n_embd=width, n_layer=6, block_size=16, batch_size=1,
        async_save=given,
    )  # fmt: skip
    dataset = prepare(read_corpus(str(text_path)), config.data)
    made = with_async_save(config, choose(config), dataset)
    assert made.async_save.value == chosen
    assert ("MiB" in made.async_save.why) is (width == 512 and chosen == "on")


def test_the_copy_of_a_checkpoint_counts() -> None:
    config = resolved("laptop").override(n_embd=512, n_layer=6, batch_size=1, async_save="off")
    count = config.model.parameter_count(65)
    in_the_background = config.override(async_save="on")
    copy = memory.peak_bytes(in_the_background, 65) - memory.peak_bytes(config, 65)
    assert copy == memory.saved_bytes(config, 65) == 8 * count  # weights and momentum
    adamw = config.override(optimizer="adamw")
    assert memory.saved_bytes(adamw, 65) == 12 * count
    two = memory.Sharing(2, 2)
    spread = in_the_background.override(parallel="fsdp")
    assert memory.saved_bytes(spread, 65, two) == 4 * count


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:    800 kB\n")
    assert memory.available_bytes(tmp_path, tmp_path) == 800 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000\n")
    assert memory.available_bytes(tmp_path, tmp_path) == 800 * 1024
    (tmp_path / "memory.max").write_text("10000\n")
    assert memory.available_bytes(tmp_path, tmp_path) == 7000
