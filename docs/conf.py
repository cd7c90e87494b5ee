"""How Sphinx builds the documentation, in English and, with -D language=ko, in Korean.

    sphinx-build -W -b html docs docs/_build/html/en
    sphinx-build -W -b html -D language=ko docs docs/_build/html/ko

The lessons are notebooks. Both languages share one cache of executed cells (keyed by the code), so
the second build runs nothing again; after a change in hornbook itself, remove docs/_build.
All pages are translated but the experiments, of which the title is. After a change of the English,
and a build of it, refresh the catalogues by

    sphinx-build -b gettext -D "exclude_patterns=_build,locale,experiments.md" \\
        docs docs/_build/gettext
    sphinx-intl update -p docs/_build/gettext -d docs/locale -l ko
"""

import os
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

import hornbook
from hornbook.language import choose_language
from hornbook.learn.notebooks import lay_out

project = "hornbook"
author = "The hornbook authors"
release = hornbook.__version__
language = "en"

extensions = ["myst_nb"]
exclude_patterns = ["_build", "locale"]
templates_path = ["_templates"]
# Pages that are not there yet (reports that a machine writes) are no reason to fail.
suppress_warnings = ["toc.empty_glob"]

nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(__file__).parent / "_build" / "executed")
nb_execution_raise_on_error = True
# Seconds a cell may take: a guard against one that hangs, on the slowest machine.
nb_execution_timeout = 600
nb_merge_streams = True

locale_dirs = ["locale"]
gettext_compact = False  # one catalogue a page
gettext_additional_targets: list[str] = []  # code is the same in every language
gettext_location = False

html_theme = "furo"
html_title = "hornbook"
html_static_path = ["_static"]
html_css_files = ["hornbook.css"]
html_js_files = ["copy.js", "labels.js"]
html_favicon = "_static/favicon.svg"
# Where Colab finds the built site, for the badges: "OWNER/REPOSITORY/blob/BRANCH", where the branch
# holds en/ and ko/. Without it there are no badges, because a badge must lead somewhere.
html_context = {
    "colab": os.environ.get("HORNBOOK_COLAB", ""),
    "html_baseurl": os.environ.get("HORNBOOK_SITE", ""),
}
# Where the built site is, for what others show of a link to it: "https://example.org/en/".
html_baseurl = os.environ.get("HORNBOOK_SITE", "")
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    # The template of this button is ours: it switches the language.
    "top_of_page_buttons": ["view"],
}

PROMPTS = {
    "en": ("Show the answers", "Hide the answers"),
    "ko": ("풀이 보기", "풀이 숨기기"),
}


def speak(_: Sphinx, config: Config) -> None:
    """Put into the page's language what no catalogue reaches."""
    config.nb_code_prompt_show, config.nb_code_prompt_hide = PROMPTS[config.language]


NOT_TRANSLATED = "이 글의 본문은 아직 영어로만 있어요. 수업과 다른 글은 한국어로 읽을 수 있어요."


def say_what_is_english(app: Sphinx, name: str, source: list[str]) -> None:
    """Put a note below the title of a page of which only the title is translated."""
    catalogue = Path(app.srcdir) / "locale/ko/LC_MESSAGES" / f"{name}.po"
    if app.config.language != "ko" or app.builder.format != "html":
        return
    if catalogue.read_text(encoding="utf-8").count("\nmsgid ") <= 2:  # its header and the title
        title, rest = source[0].split("\n", 1)
        source[0] = f"{title}\n\n```{{note}}\n{NOT_TRANSLATED}\n```\n{rest}"


def offer_notebooks(app: Sphinx, error: Exception | None) -> None:
    """Put each lesson's notebook beside its page, for the link at the page's top."""
    if error is None and app.builder.format == "html":
        folder = Path(app.outdir) / "lessons"
        for old in folder.glob("*.ipynb"):
            old.unlink()
        list(lay_out(folder, choose_language(app.config.language)))


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", say_what_is_english)
    app.connect("build-finished", offer_notebooks)
    app.connect("config-inited", speak)
