"""Bad text, end to end: `hornbook train` learns from it, or says in one clear line why not."""

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import environment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sandbox import Sandbox

from hornbook.config import Config, preset
from hornbook.errors import HornbookError
from hornbook.text.corpus import read_corpus
from hornbook.training import begin, steps

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the sandbox forks")

VERSE = "To be, or not to be: that is the question.\n" * 20
SHORT = {"block_size": 8, "steps": 1, "batch_size": 2, "sample_tokens": 4, "eval_positions": 64}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))

Make = Callable[[Path], object]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("sandbox")) as server:
        yield server


def holding(data: str | bytes) -> Make:
    content = data if isinstance(data, bytes) else data.encode()
    return lambda path: path.write_bytes(content)


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../escaped.txt", VERSE)
    return stream.getvalue()


def folder_of(**files: bytes) -> Make:
    def make(path: Path) -> None:
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)

    return make


# What is at the path, the exit status, and what the line names.
TEXTS: dict[str, tuple[Make, int, str]] = {
    "empty": (holding(""), 1, "empty"),
    "one character": (holding("a"), 1, "too few"),
    "two characters": (holding("ab"), 1, "2 are needed"),
    "one character often": (holding("a" * 1000), 0, ""),
    "shorter than the block": (holding("abcdefgh"), 1, "block_size"),
    "NUL": (holding("a\0b" * 100), 1, "NUL"),
    "nothing but NUL": (holding("\0" * 1000), 1, "NUL"),
    "a byte order mark": (holding("\ufeff" + VERSE), 0, ""),
    "nothing but a byte order mark": (holding("\ufeff"), 1, "empty"),
    "broken UTF-8": (holding(VERSE.encode() + b"\xff"), 1, "0xff"),
    "a character cut in two": (holding(VERSE.encode() + "한".encode()[:2]), 1, "offset"),
    "UTF-16 with its mark": (holding(VERSE.encode("utf-16")), 0, ""),
    "UTF-16 without its mark": (holding(VERSE.encode("utf-16-le")), 1, "utf-16-le"),
    "lone surrogates": (holding(b"\xed\xa0\x80" * 100), 1, "0xed"),
    "another encoding": (holding("가나다라 마바사 " * 200), 0, ""),
    "cp949": (holding(("가나다라 마바사 " * 200).encode("cp949")), 1, "--encoding cp949"),
    "control characters": (holding("\x1b[31m\x07\x08\x7f\x85\u2028" * 100), 0, ""),
    "every character": (holding("".join(chr(c) for c in range(1, 0x800))), 0, ""),
    "nothing but blanks": (holding("\n \t\r\n" * 200), 0, ""),
    "a binary": (holding(bytes(range(256)) * 100), 1, "byte 0x80"),
    "a zip": (holding(zipped()), 1, "text"),
    "a folder of nothing": (Path.mkdir, 1, "found none"),
    "a folder of text": (folder_of(a=VERSE.encode(), b=b"\xff"), 0, ""),
    "a pipe with no writer": (os.mkfifo, 1, "pipe"),
    "a link to itself": (lambda path: path.symlink_to(path.name), 1, "symbolic link"),
    "a link to nothing": (lambda path: path.symlink_to("gone"), 1, "symbolic link"),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), 1, "device"),
    "a silent device": (lambda path: path.symlink_to("/dev/null"), 1, "device"),
    "nothing at all": (lambda path: None, 1, "no corpus"),
}


CASES = [(name, "char") for name in TEXTS] + [
    (name, tokenizer)
    for name, (_, status, _) in TEXTS.items()
    for tokenizer in ("byte", "bpe")
    if status == 0
]


@pytest.mark.parametrize(("name", "tokenizer"), CASES)
def test_it_trains_or_says_in_one_line_why_not(
    sandbox: Sandbox, tmp_path: Path, name: str, tokenizer: str
) -> None:
    make, status, named = TEXTS[name]
    make(tmp_path / "text")
    assignments = [word for pair in SHORT.items() for word in ("--set", "=".join(map(str, pair)))]
    command = ["train", "text", "--model", "bigram", "--tokenizer", tokenizer, "-q", "--out", "run"]
    outcome = sandbox.trial([*command, *assignments], tmp_path)
    # Merges can make of a monotonous text a handful of tokens, too few for a block.
    few = tokenizer == "bpe" and "needs at least" in outcome.stderr
    status = 1 if few else status
    assert outcome.complaints(allowed=(status,)) == []
    assert named in outcome.stderr
    assert status or not outcome.lines
    assert not (tmp_path.parent / "escaped.txt").exists()
    # What is refused leaves no folder behind that a second try would stumble over.
    assert (tmp_path / "run").exists() == (status == 0)


@pytest.mark.parametrize("command", [["train", "--resume", "run"], ["eval", "run"]])
def test_a_text_that_changed_is_not_gone_on_with(
    sandbox: Sandbox, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "text").write_text(VERSE)
    assignments = [word for pair in SHORT.items() for word in ("--set", "=".join(map(str, pair)))]
    first = ["train", "text", "--model", "bigram", "-q", "--out", "run", *assignments]
    assert sandbox.trial(first, tmp_path).status == 0
    for change in (VERSE + "!", VERSE[1:], ""):
        (tmp_path / "text").write_text(change)
        outcome = sandbox.trial(command, tmp_path)
        assert outcome.complaints(allowed=(1,)) == []
        assert "has changed since" in outcome.stderr or "empty" in outcome.stderr
    (tmp_path / "text").unlink()
    assert sandbox.trial(command, tmp_path).complaints(allowed=(1,)) == []


LONG_LINE = """
import resource, sys
from hornbook.config import preset
from hornbook.training import begin, steps

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
settings = dict(block_size=8, steps=2, batch_size=2, eval_interval=2, sample_tokens=4)
config = preset("bigram").override(corpus="text", eval_positions=64, **settings)
print(next(steps(begin(config, out="run"))).train_loss, (peak() - before) // 1024)
"""


def test_a_line_of_100_mb_trains_in_bounded_memory(tmp_path: Path) -> None:
    with (tmp_path / "text").open("wb") as file:
        for _ in range(100):
            file.write(b"a long line of words " * 50_000)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LONG_LINE],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    loss, grown_mib = done.stdout.split()
    assert 0 < float(loss) < 10
    assert int(grown_mib) < 512


def tiny() -> Config:
    return preset("bigram").override(**SHORT)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    data=st.binary(max_size=300)
    | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")),
    repeat=st.sampled_from([1, 40]),
    tokenizer=st.sampled_from(["char", "byte", "bpe"]),
)
def test_any_bytes_train_a_step_or_are_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, repeat: int, tokenizer: str
) -> None:
    home = tmp_path_factory.mktemp("any")
    path = home / "any.txt"
    path.write_bytes(data * repeat)
    message, done = "any", []
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HORNBOOK_CACHE_DIR", str(home / "cache"))
        try:
            corpus = read_corpus(path)
            config = tiny().override(corpus=str(path), tokenizer=tokenizer)
            done = list(steps(begin(config, out=home / "run", corpus=corpus)))
        except HornbookError as error:
            message = str(error)
    assert len(message.splitlines()) == 1
    assert done or message != "any"
