"""The page of every model, opened from its file in a real Chromium without a network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsers import violations

import hornbook as hb
from hornbook import page as pages
from hornbook.eval.loss import per_char
from hornbook.infer.engine import Engine
from hornbook.infer.torch_decoder import TorchDecoder
from hornbook.lens.look import look
from hornbook.page.contents import gather
from hornbook.page.document import document
from hornbook.runs.load import TrainedModel

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
    "mixed": {"with_counts": True, "with_mixer": True, "order": 4, "corpus": "long.txt"},
    "mixed-bpe": {
        "with_mixer": True,
        "tokenizer": "bpe",
        "bpe_vocab_size": 300,
        "corpus": "longer.txt",
    },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TrainedModel]]:
    """A trained model of every kind, with random weights, so that every part of it matters."""
    place = tmp_path_factory.mktemp("runs")
    # A mixer needs ten thousand tokens.
    for file, times in (("text.txt", 1), ("long.txt", 4), ("longer.txt", 12)):
        (place / file).write_text(TEXT * times, encoding="utf-8")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HORNBOOK_CACHE_DIR", str(place / "cache"))
        for name, values in MODELS.items():
            settings = {
                "corpus": "text.txt", "block_size": 16, "n_embd": 32, "n_head": 2,
                "n_layer": 2, "batch_size": 2, "steps": 1, "eval_interval": 1,
                "eval_positions": 64, "checkpoint_interval": 1, "sample_tokens": 0,
                "precision": "float32", "compile": "off", **values,
            }  # fmt: skip
            settings["corpus"] = str(place / settings["corpus"])
            for _ in hb.train(hb.preset("quick").override(**settings), out=place / name):
                pass
            found[name] = hb.load(place / name)
            torch.manual_seed(0)
            with torch.no_grad():
                for parameter in found[name].model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        yield found


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
    # A mixer reads a text from its beginning for each position.
    places = range(0, len(ids), 12 if name.startswith("mixed") else 1)
    size = trained.model.context_size
    decoder = TorchDecoder(trained.model, cached=False)
    with Opened(browser, written[name]) as opened:
        found = opened.run(
            """([ids, size, places]) => Promise.all(places.map((i) =>
              window.hornbook.following(ids.slice(Math.max(0, i + 1 - size), i + 1))))""",
            [ids, size, list(places)],
        )
    for i, p in zip(places, found, strict=True):
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


@pytest.mark.parametrize("name", MODELS)
def test_it_looks_inside_as_the_formulas_say(
    name: str, runs: dict[str, TrainedModel], written: dict[str, Path], browser: Any
) -> None:
    trained = runs[name]
    text = validation_text(trained, min(40, trained.model.context_size))
    with Opened(browser, written[name]) as opened:
        seen = opened.run("text => window.hornbook.look(text)", text)
    ids = trained.tokenizer.encode(text) or [trained.tokenizer.encode("\n")[0]]
    assert seen["tokens"] == ids
    with torch.no_grad():
        logits = trained.model(torch.tensor([ids]))[0][0].double()
    p = logits.softmax(-1).numpy()
    np.testing.assert_allclose(seen["probs"], p, atol=1e-4)
    T = len(ids)
    for head in (head for layer in seen["attention"] for head in layer):
        weights = np.array(head)
        assert weights.shape == (T, T)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
        assert not np.triu(weights, 1).any()
    # Each part's share of a logit: together they are the logit.
    targets = [*ids[1:], int(p[-1].argmax())]
    expected = logits.numpy()[np.arange(T), targets]
    np.testing.assert_allclose(np.sum(seen["attribution"], axis=0), expected, atol=1e-3)
    if seen["logit_lens"]:
        last = np.array(seen["logit_lens"][-1])
        network = trained.model
        while hasattr(network, "network"):
            network = network.network
        with torch.no_grad():
            own = network(torch.tensor([ids]))[0][0].log_softmax(-1).numpy()
        np.testing.assert_allclose(last, own, atol=1e-3)
    for vote in seen["votes"]:
        sums = np.sum(vote["probs"], axis=-1)
        assert ((abs(sums - 1) < 1e-4) | (sums == 0)).all(), vote["name"]
    votes = [vote for vote in seen["votes"] if vote["name"] != "mixer"]
    if len(votes) == 4:
        network, ngrams, cache, gate = (np.array(vote["probs"]) for vote in votes)
        weight = [np.array(vote["weight"])[:, None] for vote in votes]
        np.testing.assert_allclose(weight[1] * ngrams + weight[2] * cache, gate, atol=1e-5)
        joined = network * gate ** weight[3]
        joined /= joined.sum(-1, keepdims=True)
        if "mixer" not in seen["votes"][-1]["name"]:
            np.testing.assert_allclose(joined, p, atol=1e-4)
    if seen["votes"][-1]["name"] == "mixer":
        before = joined if len(votes) == 4 else np.array(votes[0]["probs"])
        np.testing.assert_allclose(seen["votes"][-1]["probs"], p, atol=1e-4)
        moved = np.abs(p - before).sum(-1) / 2
        np.testing.assert_allclose(seen["votes"][-1]["weight"], moved, atol=1e-3)
        assert moved.max() > 0.1


def test_every_text_has_the_same_tokens_here_and_there(
    runs: dict[str, TrainedModel], written: dict[str, Path], browser: Any
) -> None:
    texts = [
        "to be  or\n\n  not 'tis don't we'll 123 45", "사느냐, 그것이 문제로다…",
        "é🙂\t\u00a0x\u3000y", " leading", "trailing ", "\n", "a\n b\n\n\nc", "ſ'S é", "x" * 50,
        "-- — “that”",
    ]  # fmt: skip
    for name in ("byte", "bpe", "joined-bpe"):
        with Opened(browser, written[name]) as opened:
            for text in texts:
                found = opened.run("async text => (await window.hornbook.look(text)).tokens", text)
                assert found == runs[name].tokenizer.encode(text), text


def test_a_seed_repeats_a_text(written: dict[str, Path], browser: Any) -> None:
    with Opened(browser, written["gpt"]) as opened:
        write = "seed => window.hornbook.write('to be', { length: 60, seed })"
        texts = [opened.run(write, seed) for seed in (1, 1, 2)]
        assert texts[0] == texts[1] != texts[2]
        # By hand: written at once, and with a stop on the way.
        start, text = opened.tab.locator("button.primary").first, opened.tab.locator("#text")
        opened.tab.select_option("#speed", "0")
        opened.tab.locator("summary").click()
        opened.tab.fill("#length", "40")
        found = []
        for stops in ((40,), (13, 27)):
            text.fill("to be")
            for length in stops:
                opened.tab.fill("#length", str(length))
                opened.tab.locator("#length").press("Tab")
                start.click()
                for _ in range(200):
                    if start.text_content() == "Write" and len(text.input_value()) > 5:
                        break
                    opened.tab.wait_for_timeout(20)
            found.append(text.input_value())
        assert found[0] == found[1]
        assert len(found[0]) == len("to be") + 40


def test_a_panel_opened_while_it_writes_stops_nothing(
    written: dict[str, Path], browser: Any
) -> None:
    """Two readings at once cut each other's text: the page wrote no more."""
    with Opened(browser, written["mixed"]) as opened:
        opened.tab.select_option("#speed", "0")
        opened.tab.locator("summary").click()
        opened.tab.fill("#length", "200")
        opened.tab.locator("#length").press("Tab")
        opened.tab.fill("#text", "to be " * 40)
        # In one task, so that the panel still reads the text when the writing begins.
        clicked = "['#tab-attention', 'button.primary'].map((each) => document.querySelector(each))"
        opened.run(f"() => {clicked}.forEach((each) => each.click())")
        written_all = "() => document.getElementById('text').value.length === 440"
        opened.tab.wait_for_function(written_all, timeout=20_000)


def test_unknown_characters_are_shown_and_named(written: dict[str, Path], browser: Any) -> None:
    with Opened(browser, written["gpt"]) as opened:
        text, alert = opened.tab.locator("#text"), opened.tab.locator(".sheet [role=alert]")
        text.fill("to Ω be")
        assert "Ω (U+03A9)" in alert.inner_text()
        assert text.input_value() == "to Ω be"
        assert opened.tab.locator("button.primary").first.is_disabled()
        alert.get_by_role("button").click()
        assert text.input_value() == "to  be"
        assert not alert.is_visible()
        # The same letters in another Unicode form are known.
        text.fill("문제".encode().decode())
        assert not alert.is_visible()
        opened.tab.click("#tab-surprise")
        opened.tab.fill("#paste", "to Ω be")
        opened.tab.locator("#panel .alert").wait_for()
        assert "U+03A9" in opened.tab.locator("#panel .alert").inner_text()


def test_another_token_is_chosen_and_the_text_goes_that_way(
    written: dict[str, Path], browser: Any
) -> None:
    with Opened(browser, written["joined"]) as opened:
        text = opened.tab.locator("#text")
        text.fill("to be")
        second = opened.tab.locator(".choice").nth(1)
        label = second.locator("b").text_content()
        second.click()
        shown = {"␣": " ", "↵": "\n"}.get(str(label), label)
        opened.tab.wait_for_timeout(50)
        assert text.input_value() == f"to be{shown}"
        # From the caret inside the text what follows is replaced.
        text.fill("to be or not")
        text.evaluate("box => box.setSelectionRange(5, 5)")
        text.dispatch_event("click")
        assert "to␣be" in opened.tab.locator(".after code").inner_text()
        opened.tab.locator(".choice").first.click()
        opened.tab.wait_for_timeout(50)
        assert len(text.input_value()) == len("to be") + 1


def test_switching_parts_off_changes_everything_and_back(
    written: dict[str, Path], browser: Any
) -> None:
    with Opened(browser, written["joined"]) as opened:

        def first() -> str:
            return opened.tab.locator(".next .bars").inner_text()

        before = first()
        opened.tab.click("#tab-whatif")
        opened.tab.locator(".results .figure").first.wait_for()
        for name in ("head 1", "MLP", "N-grams", "Gate", "Network"):
            switch = opened.tab.get_by_role("switch", name=name, exact=True).first
            switch.click()
            opened.tab.locator(".results .result").nth(1).wait_for()
            assert first() != before, name
            assert opened.tab.locator("main > .alert").is_visible()
            opened.tab.get_by_role("switch", name=name, exact=True).first.click()
            opened.tab.wait_for_timeout(50)
            assert first() == before, name


def every_panel(opened: Opened) -> Iterator[str]:
    """Open each panel in turn; its id, and "" before any."""
    yield ""
    for tab in opened.tab.locator(".tabs button").all():
        tab.click()
        opened.tab.locator("#panel .panel > *").first.wait_for()
        yield str(tab.get_attribute("id"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_everyone_can_use_it(
    scheme: str, written: dict[str, Path], browser: Any
) -> None:
    for name, locale in (("joined", "en-GB"), ("layernorm", "ko-KR"), ("ngram", "ko-KR")):
        with Opened(browser, written[name], locale=locale, color_scheme=scheme) as opened:
            assert opened.tab.locator("html").get_attribute("lang") == locale[:2]
            opened.tab.locator("summary").click()
            for panel in every_panel(opened):
                for width in (360, 768, 1280) if scheme == "light" else ():
                    opened.tab.set_viewport_size({"width": width, "height": 800})
                    wider = opened.run("document.documentElement.scrollWidth - innerWidth")
                    assert wider <= 0, (name, panel, width)
                # A scheme changes colours alone.
                rules = () if scheme == "light" else ("color-contrast", "link-in-text-block")
                assert not violations(opened.tab, *rules), (name, panel)


def test_the_keyboard_is_enough(written: dict[str, Path], browser: Any) -> None:
    with Opened(browser, written["gpt"]) as opened:
        keys = opened.tab.keyboard
        opened.tab.locator("#text").focus()
        keys.type("to be")
        opened.tab.locator("#tab-attention").focus()
        keys.press("Enter")
        opened.tab.locator(".mini").first.focus()
        keys.press("Enter")
        opened.tab.locator(".map.large").focus()
        before = opened.tab.locator("#map-value").inner_text()
        keys.press("ArrowUp")
        assert opened.tab.locator("#map-value").inner_text() != before
        opened.tab.locator(".tape .chosen").focus()
        after = opened.tab.locator(".after code").inner_text()
        keys.press("ArrowLeft")
        assert opened.tab.locator(".after code").inner_text() != after
        opened.tab.locator("#tab-steps").focus()
        keys.press("Enter")
        steps = [opened.tab.locator("h3.step").inner_text()]
        while opened.tab.locator(".steps .primary").is_enabled():
            opened.tab.locator(".steps .primary").focus()
            keys.press("Enter")
            steps.append(opened.tab.locator("h3.step").inner_text())
        assert len(set(steps)) == len(steps) > 8
        opened.tab.locator("#language").focus()
        keys.press("Enter")
        assert opened.tab.locator("html").get_attribute("lang") == "ko"


def test_text_of_the_model_is_never_html(
    runs: dict[str, TrainedModel], browser: Any, tmp_path: Path
) -> None:
    nasty = '</script><script>document.title="got"</script><img src=x onerror=alert(1)>'
    trained = runs["byte"]
    about, numbers, _ = gather(trained)
    path = tmp_path / "page.html"
    text = document(about | {"name": nasty, "corpus": nasty, "prompt": nasty}, numbers)
    path.write_text(text, encoding="utf-8")
    with Opened(browser, path) as opened:
        for _ in every_panel(opened):
            assert opened.run("document.images.length") == 0
        assert opened.tab.title() == f"{nasty}: hornbook"
        assert opened.tab.locator("#text").input_value() == nasty


@pytest.mark.parametrize(("name", "weights"), [("gpt", "int8"), ("joined", "bfloat16")])
def test_the_page_has_the_loss_that_it_states(
    name: str, weights: Any, runs: dict[str, TrainedModel], browser: Any, tmp_path: Path
) -> None:
    trained = runs[name]
    made = pages.write(trained, tmp_path / "page.html", weights=weights)
    assert made.kept.loss is not None
    assert made.kept.full_loss is not None
    assert made.kept.loss != made.kept.full_loss
    tokens = trained.dataset().validation
    with Opened(browser, made.path) as opened:
        seen = opened.run("ids => window.hornbook.losses(ids)", tokens.tolist())
        opened.tab.click("#tab-contents")
        assert f"{made.kept.loss:.4f}" in opened.tab.locator("#panel").inner_text()
    nats = np.mean(seen) * per_char(trained.tokenizer, tokens)
    assert nats == pytest.approx(made.kept.loss, abs=1e-3)


def test_a_frame_begins_with_its_text(
    runs: dict[str, TrainedModel], browser: Any, tmp_path: Path
) -> None:
    path = tmp_path / "notebook.html"
    path.write_text(pages.frame(runs["gpt"], "to <b>be</b>"), encoding="utf-8")
    context = browser.new_context(offline=True)
    tab = context.new_page()
    tab.goto(path.as_uri())
    frame = tab.frame_locator("iframe")
    assert frame.locator("#text").input_value() == "to <b>be</b>"
    said = "language => frames[0].postMessage({ language }, '*')"
    for language, button in (("ko", "English"), ("en", "한국어")):
        tab.evaluate(said, language)
        frame.locator("#language", has_text=button).wait_for()
    tab.evaluate(said, "toString")  # no language of the page
    assert frame.locator("#language").text_content() == "한국어"
    context.close()


def test_a_frame_speaks_korean_where_the_environment_does(
    runs: dict[str, TrainedModel], browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORNBOOK_LANG", "ko")
    path = tmp_path / "notebook.html"
    path.write_text(pages.frame(runs["gpt"], "to be"), encoding="utf-8")
    context = browser.new_context(offline=True, locale="en-GB")
    tab = context.new_page()
    tab.goto(path.as_uri())
    assert tab.frame_locator("iframe").locator("#language").text_content() == "English"
    context.close()


@pytest.mark.parametrize("name", MODELS)
def test_the_page_sees_what_python_does(
    name: str, runs: dict[str, TrainedModel], written: dict[str, Path], browser: Any
) -> None:
    trained = runs[name]
    text = "to be: t"
    seen = look(trained.model, trained.tokenizer, text)
    with Opened(browser, written[name]) as opened:
        found = opened.run("text => window.hornbook.look(text)", text)
    assert found["components"] == list(seen.components)
    for array in ("probs", "attention", "residual", "logit_lens", "attribution"):
        expected = getattr(seen, array)
        np.testing.assert_allclose(
            np.reshape(found[array], expected.shape), expected, rtol=1e-3, atol=1e-4
        )
    votes = {vote["name"]: vote for vote in found["votes"]}
    assert votes.keys() == seen.votes.keys()
    for who in votes:
        for array in ("probs", "weight"):
            expected = getattr(seen.votes[who], array)
            np.testing.assert_allclose(votes[who][array], expected, rtol=1e-3, atol=1e-4)
