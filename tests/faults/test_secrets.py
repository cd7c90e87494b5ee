"""What must not get out, and what must not get in: credentials, and code in data."""

import ast
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import hornbook
from hornbook.cli import run
from hornbook.errors import DataError, redacted
from hornbook.text.corpus import read_corpus

SOURCE = Path(hornbook.__file__).parent
USER, PASSWORD, TOKEN = "somebody", "opensesame", "t0ps3cret"
SECRETS = (USER, PASSWORD, TOKEN)

# Modules whose files can carry code, and functions that run what they are given.
CODE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "yaml"}
CODE_FUNCTIONS = {"__import__", "compile", "eval", "exec"}
LOADERS = {"load", "loads", "jit.load"}


def dangers(path: Path) -> list[str]:
    """What in a source file could run data as code."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {word.arg: word.value for word in node.keywords}
            if called in CODE_FUNCTIONS or called in ("torch.load", "torch.jit.load", "np.load"):
                found.append(called)
            if "allow_pickle" in keywords or "weights_only" in keywords:
                found.append(f"{called}({', '.join(map(str, keywords))})")
        found += [name for name in names if name.split(".")[0] in CODE_MODULES]
    return found


def test_no_code_is_loaded_from_data_anywhere() -> None:
    found = {str(path.relative_to(SOURCE)): dangers(path) for path in SOURCE.rglob("*.py")}
    # The one place that runs code runs what the user wrote, in the lessons.
    assert {name: what for name, what in found.items() if what} == {}


def test_the_search_for_loaded_code_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        "import pickle\nfrom torch import load\nimport torch\ntorch.load('x')\neval('1')\n"
        "np.load('x', allow_pickle=True)\n"
    )
    assert set(dangers(path)) >= {"pickle", "torch.load", "eval", "np.load"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.org/b.txt", "https://a.org/b.txt"),
        ("https://u:p@a.org/b.txt", "https://***@a.org/b.txt"),
        ("https://u:p%40@a.org/b?c=d", "https://***@a.org/b?***"),
        ("see ftp://u@h/x, or s3://k:s@b/c#d", "see ftp://***@h/x, or s3://***@b/c#***"),
        ("https://u:p@x@a.org/b", "https://***@a.org/b"),
        ("404, url='https://a.org/?sig=1'", "404, url='https://a.org/?***'"),
        ("u@h, a?b, C:\\x://", "u@h, a?b, C:\\x://"),
    ],
)
def test_an_address_is_shown_without_its_secrets(text: str, expected: str) -> None:
    assert redacted(text) == expected


class Guarded(BaseHTTPRequestHandler):
    """Gives a text to whoever has the token; every other address is not there."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        body = b"To be, or not to be: that is the question.\n" * 40
        self.send_response(200 if TOKEN in self.path and "gone" not in self.path else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def short(*arguments: str) -> list[str]:
    settings = {"block_size": 8, "steps": 2, "batch_size": 2, "sample_tokens": 4}
    return ["train", *arguments, "--model", "bigram", "--out", "run"] + [
        word for pair in settings.items() for word in ("--set", "=".join(map(str, pair)))
    ]


def test_a_token_is_used_and_never_kept_or_said(
    address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(short(f"http://{address}/book.txt?token={TOKEN}")) == 0
    assert run(["eval", "run"]) == 0
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    "url",
    [
        f"http://{USER}:{PASSWORD}@HOST/gone.txt?token={TOKEN}",
        f"http://{USER}:{PASSWORD}@HOST:99999/gone.txt?token={TOKEN}",
        f"nosuch://{USER}:{PASSWORD}@HOST/x?{TOKEN}",
        f"simplecache::http://{USER}:{PASSWORD}@HOST/x?{TOKEN}",
        f"reference://x?{TOKEN}",
    ],
)
def test_a_failing_address_is_named_without_its_secrets(
    address: str, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(short(url.replace("HOST", address))) == 1
    said = capfd.readouterr().err
    assert re.search(r"cannot (download|read) \S+: ", said)
    assert [secret for secret in SECRETS if secret in said] == []
    assert "Traceback" not in said


def test_a_mistyped_command_does_not_say_its_secrets_again(
    capfd: pytest.CaptureFixture[str],
) -> None:
    url = f"https://{USER}:{PASSWORD}@a.org/?{TOKEN}"
    for arguments in (
        ["train", "a", url],
        ["trian", url],
        ["train", f"--corpus={url}"],
        ["eval", url],
    ):
        assert run(arguments) in (1, 2)
        said = capfd.readouterr()
        assert [secret for secret in SECRETS if secret in said.out + said.err] == []


@pytest.mark.parametrize(
    "name", ["../escaped", "..", "a/../../escaped", "/escaped", "a\\..\\b", "."]
)
def test_a_corpus_name_stays_in_the_data_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "escaped").mkdir()
    (tmp_path / "escaped" / "input.txt").write_text("not a corpus")
    (tmp_path / "input.txt").write_text("not a corpus")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HORNBOOK_DATA_DIR", str(tmp_path / "data"))
    try:
        corpus = read_corpus(name)
    except DataError:
        return
    # A path from here may lead anywhere, as for any program; a name may not.
    assert Path(name).resolve().exists()
    assert "/" not in corpus.name


@pytest.mark.parametrize(
    "name", ["...txt", "-rf.txt", "a b;c.txt", "\x1b[31m.txt", "한글.txt", "a\nb.txt"]
)
def test_a_run_is_named_within_its_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    Path(name).write_text("To be, or not to be.\n" * 40)
    done = [word for word in short(f"./{name}") if word not in ("--out", "run")]
    assert run([*done, "-q"]) == 0
    made = list((tmp_path / "runs").iterdir())
    assert len(made) == 1
    assert made[0].name.isprintable()
    assert not made[0].name.startswith(("-", "."))
    assert {path.name for path in tmp_path.iterdir()} == {name, "cache", "runs"}


def test_reading_a_stranger_s_folder_imports_nothing_from_it(tmp_path: Path) -> None:
    for module in ("torch", "numpy", "json", "hornbook"):
        (tmp_path / f"{module}.py").write_text("open('executed', 'w')\n")
    script = Path(sys.executable).with_name("hornbook")
    done = subprocess.run(
        [str(script), "sample", "."], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert not (tmp_path / "executed").exists()
