"""Runs to export, trained once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import hornbook as hb

# Two scripts, a backslash, a quote, and characters of one to four bytes.
TEXT = 'to be, or not to be: "that" is the question. \\ 죽느냐 사느냐, 그것이 문제로다… é 🙂\n' * 60
MODELS: dict[str, dict[str, object]] = {
    "char": {},
    "byte": {"tokenizer": "byte"},
    "bpe": {"tokenizer": "bpe", "bpe_vocab_size": 320},
    "tied": {"tie_embeddings": True, "n_embd": 48, "n_layer": 1},
    "layernorm": {"model": "layernorm", "optimizer": "adamw"},
    "bigram": {"model": "bigram", "optimizer": "adamw"},
    "counts": {"with_counts": True},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run of each of MODELS, and their text."""
    place = tmp_path_factory.mktemp("runs")
    (place / "text.txt").write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(place / "cache"))
        for name, values in MODELS.items():
            config = hb.preset("quick").override(
                **{
                    "corpus": str(place / "text.txt"),
                    "block_size": 16,
                    "n_embd": 32,
                    "n_head": 2,
                    "n_layer": 2,
                    "batch_size": 4,
                    "steps": 20,
                    "eval_interval": 10,
                    "checkpoint_interval": 10,
                    "sample_tokens": 5,
                    "precision": "float32",
                    "compile": "off",
                    **values,
                }
            )
            for _ in hb.train(config, out=place / name):
                pass
        yield place
