"""What any request may do: no answer of ours is a 5xx, and no name opens a file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from serving import Local

from hornbook.serve.page import STATIC

FEW = settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_no_request_of_the_schema_is_a_failure_of_ours(local: Local) -> None:
    described = schemathesis.openapi.from_url(f"{local.url}/openapi.json")
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) > 8
    for operation in operations:

        @given(case=operation.as_strategy())
        @FEW
        def check(case: schemathesis.Case) -> None:
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "gpt"
            assert case.call().status_code < 500

        check()


opened: list[str] | None = None


def note_opened(event: str, arguments: tuple[object, ...]) -> None:
    if opened is not None and event in ("open", "os.listdir", "os.scandir"):
        opened.append(str(arguments[0]))


@pytest.fixture(scope="module")
def audited(local: Local) -> None:
    """Note what this process opens. A hook stays for good, so it does nothing outside a block."""
    for path in ("/v1/models/none", "/none"):  # Python reads our own code to describe an error
        local.get(path)
        local.post("/tokenize", {"model": path, "prompt": "a"})
    sys.addaudithook(note_opened)


@contextmanager
def noting() -> Iterator[list[str]]:
    global opened  # noqa: PLW0603 - an audit hook has no other state
    opened = []
    try:
        yield opened
    finally:
        opened = None


def outside(local: Local, paths: list[str]) -> list[str]:
    """The paths that nothing but a request can have opened.

    The runs are looked at for newer weights, and this process for threads that wait for a core.
    """
    own = ["/proc/self/task", *(f"{model.folder.path}/" for model in local.models)]
    return [path for path in paths if not path.startswith(tuple(own))]


HOSTILE = ["..", "../gpt", "/etc/passwd", "gpt/../../gpt", "./gpt", "gpt/", "gpt\0", "%2e%2e",
           "..%2f..", "\\..\\gpt", "ｇｐｔ", "gpt\u200b", "GPT", "~", "file:///etc/passwd",
           "link"]  # fmt: skip
# Hypothesis takes words from the code, also the names of what is really there.
REAL = {
    "gpt",
    "mixture",
    "bigram",
    "health",
    "metrics",
    "openapi.json",
    *(path[1:] for path in STATIC),
}
names = st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=30)).filter(
    lambda name: name not in REAL
)


@given(name=names)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_a_models_name_opens_nothing(local: Local, audited: None, name: str) -> None:
    link = local.models.find("gpt").folder.path.parent / "link"
    if not link.is_symlink():
        link.symlink_to("/etc")
    path = quote(name, safe="")
    with noting() as found:
        answers = [
            local.post("/v1/completions", {"model": name, "prompt": "a"}),
            local.post("/tokenize", {"model": name, "prompt": "a"}),
            local.get(f"/v1/models/{path}"),
            local.get(f"/training/{path}"),
            local.get(f"/{path}"),
        ]
    assert all(400 <= answer.status < 500 for answer in answers), answers
    assert not outside(local, found)


def test_a_path_leads_nowhere_but_to_a_route(local: Local, audited: None) -> None:
    for path in ("/../page.css", "/%2e%2e/page.css", "//page.css", "/page.css/..",
                 "/page.js%00", "/..%2fserve%2fapp.py", "/app.py", "/v1/models/..%2f..",
                 "/training/%2e%2e%2fgpt", "/%0a", "/health%0A", "/page.css%0A"):  # fmt: skip
        with noting() as found:
            assert local.get(path).status == 404, path
        assert not outside(local, found)
    with noting() as found:
        assert local.get("/").status == 200
    assert "page.html" in [Path(each).name for each in outside(local, found)], "the hook works"
