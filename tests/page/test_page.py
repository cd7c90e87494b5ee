"""The page of every model, opened from its file in a real Chromium without a network."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hornbook as hb
from hornbook import page as pages
from hornbook.infer.engine import Engine
from hornbook.infer.torch_decoder import TorchDecoder
from hornbook.runs.load import TrainedModel

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")

# Two scripts, markup, and characters of one to four bytes.
TEXT = 'to be, or not to be: <b>that</b> & "this". 죽느냐 사느냐, 그것이 문제로다… é 🙂\n' * 60
LECTURE = {"optimizer": "adamw", "block_size": 8}
MODELS: dict[str, dict[str, object]] = {
    "bigram": {"model": "bigram", **LECTURE},
    "average": {"model": "average", **LECTURE},
    "head": {"model": "head", **LECTURE},
    "heads": {"model": "heads", **LECTURE},
    "feedforward": {"model": "feedforward", **LECTURE},
    "residual": {"model": "residual", **LECTURE},
    "layernorm": {"model": "layernorm", **LECTURE},
    "gpt": {},
    "byte": {"tokenizer": "byte"},
    "bpe": {"tokenizer": "bpe", "bpe_vocab_size": 320, "tie_embeddings": True},
    "ngram": {"model": "ngram", "order": 5, "block_size": 256},
    "joined": {"with_counts": True, "order": 4},
    "joined-bpe": {"with_counts": True, "order": 3, "tokenizer": "bpe", "bpe_vocab_size": 300},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TrainedModel]]:
    """A trained model of every kind, with random weights, so that every part of it matters."""
    place = tmp_path_factory.mktemp("runs")
    (place / "text.txt").write_text(TEXT, encoding="utf-8")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(place / "cache"))
        for name, values in MODELS.items():
            settings = {
                "corpus": str(place / "text.txt"), "block_size": 16, "n_embd": 32, "n_head": 2,
                "n_layer": 2, "batch_size": 2, "steps": 1, "eval_interval": 1,
                "eval_positions": 64, "checkpoint_interval": 1, "sample_tokens": 0,
                "precision": "float32", "compile": "off", **values,
            }  # fmt: skip
            for _ in hb.train(hb.preset("quick").override(**settings), out=place / name):
                pass
            found[name] = hb.load(place / name)
            torch.manual_seed(0)
            with torch.no_grad():
                for parameter in found[name].model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox needs rights that root in a container does not have.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Opened:
    """A page in a tab of its own, and whatever went wrong in it."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.context = browser.new_context(offline=True, **({"locale": "en-GB"} | settings))
        self.tab = self.context.new_page()
        self.wrong: list[str] = []
        self.tab.on("console", lambda message: self.wrong.append(message.text))
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("request", lambda request: self.wrong.append(request.url))
        self.tab.goto(path.as_uri())
        self.tab.wait_for_selector("html[data-ready]")
        self.wrong.remove(path.as_uri())

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()
        if error[0] is None:
            assert not self.wrong

    def run(self, script: str, argument: object = None) -> Any:
        return self.tab.evaluate(script, argument)


@pytest.fixture(scope="module")
def written(runs: dict[str, TrainedModel]) -> dict[str, Path]:
    """The page of every model, with its exact weights."""
    return {
        name: pages.write(trained, trained.folder.path / "page.html", weights="float32").path
        for name, trained in runs.items()
    }


def validation_text(trained: TrainedModel, tokens: int) -> str:
    """The beginning of the validation text, of about so many tokens."""
    return trained.tokenizer.decode(trained.dataset().validation[:tokens]).rstrip("\ufffd")


@pytest.mark.parametrize("name", MODELS)
def test_the_page_predicts_what_the_model_does(
    name: str, runs: dict[str, TrainedModel], written: dict[str, Path], browser: Any
) -> None:
    trained = runs[name]
    ids = trained.tokenizer.encode(validation_text(trained, 201))
    size = trained.model.context_size
    decoder = TorchDecoder(trained.model, cached=False)
    with Opened(browser, written[name]) as opened:
        found = opened.run(
            """([ids, size]) => Promise.all(ids.map((_, i) =>
              window.hornbook.following(ids.slice(Math.max(0, i + 1 - size), i + 1))))""",
            [ids, size],
        )
    for i, p in enumerate(found):
        logits = decoder.forward([ids[max(0, i + 1 - size) : i + 1]], [0], [0])[0]
        expected = torch.tensor(logits).double().softmax(-1).numpy()
        np.testing.assert_allclose(p, expected, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_temperature_0_writes_what_the_engine_does(
    name: str, runs: dict[str, TrainedModel], written: dict[str, Path], browser: Any
) -> None:
    trained = runs[name]
    prompt = "to be, "
    expected = Engine.of(trained.model, trained.tokenizer).generate(
        prompt, max_new_tokens=1000, temperature=0
    )
    with Opened(browser, written[name]) as opened:
        script = "prompt => window.hornbook.write(prompt, { length: 1000, temperature: 0 })"
        assert opened.run(script, prompt) == expected
