"""The lessons as notebooks: what is laid out, in both languages, and that it runs."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
from commands import hornbook
from myst_nb.core.read import read_myst_markdown_notebook
from nbclient import NotebookClient

from hornbook.config import environment_settings
from hornbook.language import LANGUAGES
from hornbook.learn import progress
from hornbook.learn.notebooks import CODE, lay_out, lessons, notebook, source_folder

LESSONS = lessons()
PROJECT = Path(__file__).parents[2]
# Headings that are names.
NAMES = ("## RMSNorm", "## Muon", "## SmolLM2", "## LoRA")
EXAMPLES = re.compile("하늘|봄이 왔다|[왔갔]")
HANGUL = re.compile("[가-힣]")


def code(made: dict[str, Any]) -> list[str]:
    """The code of a notebook but for its first cell, which sets the language."""
    return ["".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "code"][1:]


@pytest.mark.parametrize("source", LESSONS, ids=lambda source: source.stem)
def test_a_notebook_has_the_code_that_the_site_runs_in_both_languages(source: Path) -> None:
    # The site's build runs every cell of it (tests/test_docs.py), so these are known to run.
    site = read_myst_markdown_notebook(source.read_text(encoding="utf-8"))
    run = [cell["source"] for cell in site.cells if cell["cell_type"] == "code"]
    assert len(run) > 2
    for language in LANGUAGES:
        assert code(notebook(source, language)) == [cell.strip("\n") for cell in run]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("source", LESSONS, ids=lambda source: source.stem)
def test_a_notebook_is_valid_and_in_its_language(source: Path, language: str) -> None:
    made = notebook(source, "ko" if language == "ko" else "en")
    nbformat.validate(nbformat.from_dict(made))
    prose = ["".join(c["source"]) for c in made["cells"] if c["cell_type"] == "markdown"]
    for text in prose:
        for block in re.split(r"\n\s*\n|\n(?=- |\d\. )", text):
            if block not in NAMES and not block.startswith("```"):
                assert bool(HANGUL.search(EXAMPLES.sub("", block))) == (language == "ko"), block
        assert ".md)" not in text
        for target in re.findall(r"\]\(([^():]+\.ipynb)", text):
            assert target.removesuffix(".ipynb") in {each.stem for each in LESSONS}
    first = made["cells"][1]
    assert f'"HORNBOOK_LANG"] = "{language}"' in "".join(first["source"])
    assert "google.colab" in "".join(first["source"])


def test_what_a_notebook_sets_is_no_setting_of_a_run_that_it_starts() -> None:
    begin = "".join(notebook(LESSONS[0], "ko")["cells"][1]["source"])
    variables = dict.fromkeys(re.findall(r'environ\["(HORNBOOK_\w+)"\]', begin), "ko")
    assert variables
    assert environment_settings(variables) == {}


def test_answers_are_folded_away_and_no_answer_is_given_away() -> None:
    for source in LESSONS:
        folded = [
            "reveal(" in "".join(cell["source"])
            for cell in notebook(source, "en")["cells"]
            if cell["metadata"].get("jupyter") == {"source_hidden": True, "outputs_hidden": True}
        ]
        assert folded == [True]
        for cell in code(notebook(source, "en")):
            for asked in re.findall(r"^check\((.*)\)$", cell, re.MULTILINE):
                assert asked.endswith(", ...") or "    ...\n" in cell


def test_the_header_of_each_source_names_a_kernel_as_jupytext_needs_it() -> None:
    for source in LESSONS:
        assert "kernelspec:\n  display_name: Python 3\n" in source.read_text(encoding="utf-8")


def test_a_notebook_runs_as_laid_out_and_answers_in_its_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = next(path for path, _ in lay_out(tmp_path, "ko") if path.name.startswith("02"))
    laid_out = nbformat.read(path, as_version=4)
    for cell in laid_out.cells:  # as a learner would answer two of the exercises
        cell.source = cell.source.replace('check("batch-1", ...)', 'check("batch-1", 8)')
        cell.source = cell.source.replace('check("batch-2", ...)', 'check("batch-2", 4)')
    done = NotebookClient(laid_out, timeout=120).execute()
    results = [
        out.data["text/plain"]
        for cell in done.cells
        if cell.cell_type == "code" and "\ncheck(" in f"\n{cell.source}"
        for out in cell.outputs
    ]
    right, wrong, *blank = results
    assert right.startswith("맞아요.")
    assert all(each.startswith("아직이에요.") for each in (wrong, *blank))
    kept = json.loads((tmp_path / "hornbook" / "lessons.json").read_text(encoding="utf-8"))
    assert kept == ["batch-1"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("source", LESSONS, ids=lambda source: source.stem)
def test_every_notebook_runs_as_laid_out(
    source: Path, language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_form: bool
) -> None:
    if not long_form:
        pytest.skip("in the long form: ten minutes; the site's build runs the same cells")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    written = lay_out(tmp_path, "ko" if language == "ko" else "en")
    (path,) = (path for path, _ in written if path.stem == source.stem)
    monkeypatch.chdir(path.parent)
    NotebookClient(nbformat.read(path, as_version=4), timeout=300).execute()


def test_the_command_lays_out_and_keeps_what_is_there(tmp_path: Path) -> None:
    first = hornbook("lessons", "--lang", "ko", "--json", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    paths = json.loads(first.stdout)["notebooks"]
    assert [Path(path).stem for path in paths] == [source.stem for source in LESSONS]
    work = tmp_path / paths[0]
    work.write_text("my work", encoding="utf-8")
    again = hornbook("lessons", "--lang", "en", cwd=tmp_path)
    assert again.returncode == 0
    assert b"are kept" in again.stderr
    assert work.read_text(encoding="utf-8") == "my work"
    assert hornbook("lessons", "--lang", "de", cwd=tmp_path).returncode == 2


def test_progress_survives_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert progress.solved() == []
    progress.keep("text-1")
    progress.keep("batch-2")
    assert progress.solved() == ["batch-2", "text-1"]
    listed = json.loads(
        hornbook(
            "lessons", "--progress", "--json", cwd=tmp_path, XDG_DATA_HOME=str(tmp_path)
        ).stdout
    )
    assert listed["01-text-and-tokens"]["text-1"]
    assert not listed["01-text-and-tokens"]["text-2"]
    for damage in (b"", b"{}", b"[1, 2", b"\xff"):
        progress.progress_file().write_bytes(damage)
        assert progress.solved() == []
        progress.keep("text-2")
        assert progress.solved() == ["text-2"]


def test_lessons_without_a_network_say_that_figures_differ(tmp_path: Path) -> None:
    program = "from hornbook.learn.corpus import train_data, vocab_size; print(len(train_data))"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ
        | {
            "HORNBOOK_DATA_DIR": str(tmp_path),
            "HORNBOOK_CACHE_DIR": str(tmp_path / "cache"),
            "https_proxy": "http://127.0.0.1:9",
            "HTTPS_PROXY": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert "NOTE: tiny Shakespeare is not available" in ran.stdout
    assert "figures differ" in ran.stdout
    assert "python-docs: " in ran.stdout


def test_the_wheel_has_the_sources_where_they_are_looked_for() -> None:
    build = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]
    included = build["build"]["targets"]["wheel"]["force-include"]
    assert source_folder() == PROJECT / "docs"
    for place, target in included.items():
        assert (PROJECT / place).is_dir()
        assert target == place.replace("docs", "hornbook/learn/course", 1)
    assert sum(len(CODE.findall(source.read_text("utf-8"))) for source in LESSONS) > 90


def test_the_table_of_times_has_every_lesson_and_none_over_a_minute() -> None:
    table = (source_folder() / "experiments.md").read_text(encoding="utf-8")
    times = dict(re.findall(r"^\| (\d\d-[a-z-]+) \| (\d+) \|", table, re.MULTILINE))
    assert list(times) == [source.stem for source in LESSONS]
    assert max(map(int, times.values())) < 60
