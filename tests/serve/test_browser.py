"""The page in front of the server, in a real Chromium."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from browsers import violations
from serving import KEY, Client, Local, serving

from hornbook.serve.server import Options

NASTY = "<script>document.title='got'</script><img src=x onerror=alert(1)>"


class Visit:
    """The server's page in a tab of its own; `wrong` has messages and requests to elsewhere."""

    def __init__(self, browser: Any, server: Client, **settings: Any) -> None:
        self.context = browser.new_context(**({"locale": "en-GB"} | settings))
        self.tab = self.context.new_page()
        self.wrong: list[str] = []
        self.tab.on("console", lambda message: self.wrong.append(message.text))
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("request", self._asked)
        self._own = f"{server.url}/"
        self.tab.goto(self._own)
        self.tab.wait_for_selector("html[data-ready]")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self._own, "data:")):
            self.wrong.append(request.url)

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()
        if error[0] is None:
            assert not self.wrong


def test_each_model_runs_in_the_page(local: Local, browser: Any) -> None:
    with Visit(browser, local) as visit:
        tab = visit.tab
        for name in ("gpt", "mixture", "bigram"):
            tab.select_option("#model", name)
            tab.locator("h1", has_text=name).wait_for()
            found = tab.evaluate("window.hornbook.next('the ')")
            asked = {"model": name, "prompt": "the ", "max_tokens": 1, "logprobs": 1}
            (choice,) = local.post("/v1/completions", asked).json["choices"]
            (top,) = choice["logprobs"]["top_logprobs"]
            assert list(top) == [found[0]["token"]]
        tab.select_option("#model", "mixture")
        tab.locator("#tab-votes").click()
        tab.locator(".voter").first.wait_for()
        tab.select_option("#model", "gpt")
        tab.locator("#tab-attention").click()
        tab.locator(".mini").first.wait_for()
        tab.click("#language")
        assert tab.locator("html").get_attribute("lang") == "ko"
        assert "모델" in tab.locator("#serving").inner_text()
        for width in (360, 1280):
            tab.set_viewport_size({"width": width, "height": 800})
            assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert not violations(visit.tab)
        # The policy of the server's pages refuses scripts that it did not send.
        inline = tab.evaluate(
            """() => new Promise((resolve) => {
              const refused = (event) => resolve(event.violatedDirective);
              addEventListener("securitypolicyviolation", refused);
              const script = document.createElement("script");
              script.textContent = "document.title = 'got'";
              document.body.append(script);
            })"""
        )
        assert inline.startswith("script-src")
        assert tab.title() != "got"
        visit.wrong.clear()


def test_a_model_that_stays_on_the_server_writes_through_the_api(
    runs: list[Path], browser: Any
) -> None:
    with serving(runs[:1], Options(keep_weights=True)) as server, Visit(browser, server) as visit:
        tab = visit.tab
        assert tab.locator(".tabs").count() == 0
        tab.fill("#text", "the ")
        tab.locator(".choice").first.wait_for()
        tab.locator("summary").click()
        tab.fill("#seed", "3")
        tab.fill("#length", "30")
        tab.locator("#length").press("Tab")
        tab.click("button.primary")
        tab.locator("[role=status]", has_text="30").wait_for(state="attached")
        asked = {"prompt": "the ", "seed": 3, "max_tokens": 30, "temperature": 0.8}
        expected = server.complete(**asked).json["choices"][0]["text"]
        assert tab.locator("#text").input_value() == f"the {expected}"
        tab.fill("#text", "the ")
        choice = tab.locator(".choice").first
        choice.wait_for()
        assert not violations(visit.tab)
        tab.set_viewport_size({"width": 360, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        choice.click()
        tab.wait_for_function("document.querySelector('#text').value.length === 5")
        visit.wrong.clear()
        tab.fill("#text", "the Ω")
        tab.locator(".writer .alert").wait_for()
        assert "Ω" in tab.locator(".writer .alert").inner_text()
        visit.wrong.clear()  # the console names the refused request
        assert server.get("/page/gpt").status == 404


def test_the_page_asks_for_the_key(runs: list[Path], browser: Any) -> None:
    with (
        serving(runs[:1], Options(api_keys=(KEY,))) as server,
        Visit(browser, server) as visit,
    ):
        tab = visit.tab
        assert tab.locator("h1").count() == 0
        tab.fill("#key", "another-key")
        tab.click("#serving button")
        tab.locator("[role=alert]", has_text="key").wait_for()
        tab.fill("#key", KEY)
        tab.click("#serving button")
        tab.locator("h1", has_text="gpt").wait_for()
        visit.wrong.clear()  # the console names what was refused


def test_a_run_in_training_shows_its_loss_and_its_newest_weights(
    runs: list[Path], browser: Any, tmp_path: Path
) -> None:
    run = tmp_path / "growing"
    shutil.copytree(runs[0], run)
    (run / "result.json").rename(tmp_path / "result.json")
    (run / "checkpoints").rename(tmp_path / "later")
    with serving([run]) as server, Visit(browser, server) as visit:
        tab = visit.tab
        tab.locator("#training").wait_for()
        assert "Step 8 of 8" in tab.locator("#training").inner_text()
        assert "No checkpoint yet" in tab.locator("#sample").inner_text()
        (tmp_path / "later").rename(run / "checkpoints")
        tab.locator("h1", has_text="growing").wait_for(timeout=20_000)
        end = time.monotonic() + 20
        while "No checkpoint" in tab.locator("#sample").inner_text():
            assert time.monotonic() < end
            time.sleep(0.1)
        assert not violations(visit.tab)
        (tmp_path / "result.json").rename(run / "result.json")
        tab.locator("#training").wait_for(state="hidden", timeout=20_000)


def test_what_a_model_writes_is_text(runs: list[Path], browser: Any) -> None:
    with serving(runs[:1]) as server:
        script = server.get("/page.js").body.decode()
        for markup in ("innerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert markup not in script
        with Visit(browser, server) as visit:
            event = {"choices": [{"index": 0, "text": NASTY, "finish_reason": "length"}]}
            whole = {"choices": [{"text": NASTY, "logprobs": {"top_logprobs": [{NASTY: -0.1}]}}]}

            def answer(route: Any) -> None:
                if json.loads(route.request.post_data).get("stream"):
                    route.fulfill(body=f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n")
                else:
                    route.fulfill(json=whole)

            refused = {"error": {"message": NASTY, "code": "no_page"}}
            visit.tab.route("**/v1/completions", answer)
            visit.tab.route("**/page/*", lambda route: route.fulfill(status=404, json=refused))
            visit.tab.reload()
            visit.tab.locator(".choice").first.wait_for()
            visit.tab.click("button.primary")
            visit.tab.wait_for_function("document.querySelector('#text').value.includes('img')")
            assert visit.tab.locator("#text").input_value() == NASTY
            assert visit.tab.evaluate("document.images.length") == 0
            assert visit.tab.title() == "hornbook"
            visit.wrong.clear()  # the console names the refused page
