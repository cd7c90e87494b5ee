"""Memory: what will not fit is refused, with what would."""

from pathlib import Path

import pytest

import hornbook as hb
from hornbook import memory
from hornbook.errors import ConfigError

GIB = 2**30


def test_what_fits_is_let_through() -> None:
    memory.check(hb.preset("laptop"), 65, GIB)
    memory.check(hb.preset("laptop").override(n_embd=2**30), 65, None)


def test_a_batch_that_would_fit_is_named_and_does() -> None:
    config = hb.preset("laptop").override(batch_size=4096)
    with pytest.raises(ConfigError, match=r"about [\d,]+ MiB .* 1,024 MiB are available") as caught:
        memory.check(config, 65, GIB)
    fits = int(str(caught.value).partition("batch_size = ")[2].split()[0])
    memory.check(config.override(batch_size=fits), 65, GIB)
    with pytest.raises(ConfigError):
        memory.check(config.override(batch_size=fits + 1), 65, GIB)


def test_a_width_that_would_fit_is_named_and_does() -> None:
    config = hb.preset("laptop").override(n_embd=2**30)
    with pytest.raises(ConfigError, match="not even batch_size = 1") as caught:
        memory.check(config, 65, GIB)
    width = int(str(caught.value).partition("n_embd = ")[2].split()[0])
    memory.check(config.override(n_embd=width, batch_size=1), 65, GIB)


@pytest.mark.parametrize("field", ["n_layer", "batch_size"])
def test_absurd_sizes_are_refused_without_being_tried(field: str) -> None:
    with pytest.raises(ConfigError, match="MiB"):
        memory.check(hb.preset("laptop").override(**{field: 2**40}), 65, GIB)


@pytest.mark.parametrize("name", ["bigram", "average", "heads", "layernorm", "lecture", "laptop"])
def test_parameters_are_about_those_of_the_model(name: str) -> None:
    from hornbook.models import build

    config = hb.preset(name).model
    exact = build(config, 200).parameter_count
    assert memory.parameters(config, 200) == pytest.approx(exact, rel=0.05)


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:    800 kB\n")
    assert memory.available_bytes(tmp_path, tmp_path) == 800 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000\n")
    assert memory.available_bytes(tmp_path, tmp_path) == 800 * 1024
    (tmp_path / "memory.max").write_text("10000\n")
    assert memory.available_bytes(tmp_path, tmp_path) == 7000
