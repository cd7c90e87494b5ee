"""The page of the default run: its size, how soon it is there, and how fast it writes.

The run is trained by `hornbook train` as it stands, for two minutes on Python's documentation. The
page is opened from its file in Debian's Chromium, without a network and without a window. The
ceiling of writing is the same model in C.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import hornbook as hb
from benchmarks.table import Row
from hornbook import page as pages
from hornbook.runs.engine import open_engine

CHARACTERS = 1000
SHORT = ("--preset", "quick", "--with-counts", "--steps", "2")

# Clicks on Write; resolves to the seconds until it has stopped.
WRITING = """async () => {
  const button = document.querySelector("button.primary"), name = button.textContent;
  const begun = performance.now();
  button.click();
  while (button.textContent === name) await new Promise((resolve) => setTimeout(resolve, 1));
  while (button.textContent !== name) await new Promise((resolve) => setTimeout(resolve, 5));
  return (performance.now() - begun) / 1000;
}"""
# Seconds from the beginning of loading to the first character written.
FIRST = """async () => {
  const text = document.getElementById("text"), before = text.value;
  document.querySelector("button.primary").nextElementSibling.click(); // one token
  while (text.value === before) await new Promise((resolve) => setTimeout(resolve, 1));
  return performance.now() / 1000;
}"""
# Seconds from the beginning of loading until a mixer, where there is one, has counted its text.
COUNTED = """async () => {
  await window.hornbook.next("");
  return performance.now() / 1000;
}"""


def measure(*, short: bool = False) -> list[Row]:
    """Size, writing time, seconds to the first character, and characters a second."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        more = SHORT if short else ()
        command = [sys.executable, "-m", "hornbook", "train", "--no-page", "-q", *more]
        subprocess.run([*command, "--out", str(run)], check=True, stdout=subprocess.DEVNULL)
        trained = hb.load(run)
        dataset = trained.dataset()
        times = []
        for _ in range(1 if short else 3):
            started = time.perf_counter()
            made = pages.write(trained, dataset=dataset)
            times.append(time.perf_counter() - started)
        kept = made.kept
        holds = f"{trained.model.parameter_count:,} parameters in {kept.precision}"
        if kept.n_grams:
            holds += f", {kept.n_grams:,} of {kept.all_n_grams:,} n-grams"
        rows = [
            Row("the page", "MB", made.bytes / 1e6, note=holds),
            Row("written", "s", statistics.median(times)),
        ]
        if kept.loss is not None and kept.full_loss is not None:
            rows.append(
                Row(
                    "loss in the page",
                    "nats/char",
                    kept.loss,
                    ceiling=kept.full_loss,
                    ceiling_name="the run itself",
                )
            )
        engine = open_engine(run)
        engine.generate(max_new_tokens=10)
        started = time.perf_counter()
        engine.generate(max_new_tokens=CHARACTERS, temperature=0.8)
        in_c = CHARACTERS / (time.perf_counter() - started)
        return rows + in_browser(made.path, in_c, 100 if short else CHARACTERS)


def in_browser(path: Path, in_c: float, characters: int) -> list[Row]:
    """What is measured in the page; nothing where there is no Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return []
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        first, counted = [], []
        for _ in range(3):
            tab = opened(browser, path)
            first.append(tab.evaluate(FIRST))
            counted.append(tab.evaluate(COUNTED))
        rows.append(Row("from opening to the first character", "s", statistics.median(first)))
        rows.append(Row("from opening until the mixer writes too", "s", statistics.median(counted)))
        tab.select_option("#speed", "0")
        tab.locator("summary").click()
        tab.fill("#length", str(characters))
        tab.locator("#length").press("Tab")
        for what, panel in (("written, panels closed", ""), ("with attention drawn", "attention")):
            if panel:
                tab.click(f"#tab-{panel}")
            speed = characters / tab.evaluate(WRITING)
            rows.append(
                Row(what, "characters/s", speed, ceiling=in_c, ceiling_name="hornbook sample")
            )
        browser.close()
    return rows


def opened(browser: Any, path: Path) -> Any:
    """A tab with the page, ready."""
    tab = browser.new_context(offline=True, locale="en-GB").new_page()
    tab.goto(path.as_uri())
    tab.wait_for_selector("html[data-ready]")
    return tab
