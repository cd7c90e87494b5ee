"""Terminals of any width and encoding, closed streams, and commands printed to be pasted."""

import codecs
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path

import commands
import pytest
from commands import environment
from rich.console import Console

import hornbook as hb
from hornbook import cli, report
from hornbook import training as engine
from hornbook.cli.console import plain, printable
from hornbook.cli.display import prompt_from, readable
from hornbook.cli.terminal import print_table
from hornbook.errors import CheckpointError, DataError, command, quoted
from hornbook.infer.sample import Sample, first_line
from hornbook.storage.disk import Disk
from hornbook.text.corpus import join, read_corpus
from hornbook.training.conclude import conclude

# Letters that no encoding but UTF-8 has all of, and what a terminal would obey: ESC, BEL.
TEXT = "café “to be” or — 가나 \x1b[31mnot\x07 to be\n    indented\n\n" * 80
TINY = (
    "--steps", "20", "--preset", "quick", "--set", "block_size=16", "--set", "n_embd=32",
    "--set", "batch_size=4", "--set", "n_head=2", "--set", "eval_interval=10",
    "--set", "sample_tokens=10",
)  # fmt: skip
PLAIN = {"PYTHONIOENCODING": "ascii", "COLUMNS": "40"}


def hornbook(
    *arguments: str | Path, cwd: Path, stdin: bytes = b"", after: str = "", **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command, by a shell where it has `after` (as ">&-") at its end."""
    if not after:
        return commands.hornbook(*arguments, cwd=cwd, stdin=stdin, **more)
    words = [sys.executable, "-m", "hornbook", *map(str, arguments)]
    return subprocess.run(
        ["bash", "-c", f"{shlex.join(words)} {after}"],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=environment(cwd, **more),
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, "my run", trained under an ASCII terminal of 40 columns."""
    place = tmp_path_factory.mktemp("place")
    (place / "text.txt").write_text(TEXT, encoding="utf-8")
    done = hornbook("train", "text.txt", "--out", "my run", *TINY, cwd=place, **PLAIN)
    assert done.returncode == 0, done.stderr.decode()
    (place / "printed").write_bytes(done.stdout)
    return place


def test_a_finished_training_is_shown_in_any_encoding_and_width(place: Path) -> None:
    printed = (place / "printed").read_bytes().decode("ascii")
    table = printed.split("\n\n")[0]
    assert "#" not in table
    losses = re.findall(r"^(.*?\S) +(\d+\.\d{4}) +\d+\.\d{4}\s*$", table, re.M)
    assert {"bigram counts", "this model"} <= {name for name, _ in losses}
    assert "…" not in printed
    assert "  hornbook eval 'my run'\n" in printed


@pytest.mark.parametrize("encoding", ["cp1252", "cp949", "cp932", "latin-1", "ascii"])
def test_a_sample_is_printed_in_any_encoding(place: Path, encoding: str) -> None:
    sample = ("sample", "my run", "--max-new-tokens", "60", "--seed", "1")
    whole = hornbook(*sample, cwd=place, PYTHONIOENCODING="utf-8")
    done = hornbook(*sample, cwd=place, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    codecs.register_error("plain", plain)
    assert done.stdout == whole.stdout.decode().encode(encoding, "plain")
    rows = hornbook(*sample, "--json", cwd=place, PYTHONIOENCODING=encoding).stdout
    assert json.loads(rows)["text"] + "\n" == whole.stdout.decode()


@pytest.mark.parametrize("arguments", [("report", "my run"), ("trace", "my run"), ("corpora",)])
def test_other_commands_print_plain_characters(place: Path, arguments: tuple[str, ...]) -> None:
    done = hornbook(*arguments, cwd=place, **PLAIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("ascii").strip()


def test_a_width_of_0_is_an_unknown_width(place: Path) -> None:
    assert b"not a run folder" in hornbook("eval", "none", cwd=place, COLUMNS="0").stderr
    done = hornbook("corpora", cwd=place, COLUMNS="0")
    assert done.stdout == hornbook("corpora", cwd=place).stdout


@pytest.mark.parametrize(
    ("width", "headings"),
    [(60, ["name", "idea", "loss", "bar"]), (30, ["name", "idea", "loss"]), (20, ["name", "loss"])],
)
def test_the_figures_are_the_last_to_go(width: int, headings: list[str]) -> None:
    console = Console(file=StringIO(), width=width)
    rows = [("a model", "scale", "1.2345", "█" * 12), ("another one", "attention", "2.3456", "█")]
    print_table(
        console,
        ("name", "idea", "loss", "bar"),
        rows,
        numbers=("loss",),
        unbroken=("name", "bar"),
        drop=(3, 1),
    )
    assert isinstance(console.file, StringIO)
    printed = console.file.getvalue()
    assert printed.split("\n")[0].split() == headings
    assert "1.2345" in printed
    assert "2.3456" in printed
    assert "…" not in printed


@pytest.mark.parametrize(
    "name", ["my run 2", "it's", "two\nlines", "$HOME", "-run", os.fsdecode(b"caf\xe9 \\'"), "가"]
)
def test_what_is_printed_to_be_pasted_survives_a_shell(name: str) -> None:
    assert quoted(name).isprintable()
    line = f"printf %s {quoted(Path(name))}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert os.fsdecode(done.stdout) == (f"./{name}" if name.startswith("-") else name)
    assert command("eval", Path("r/my run")) == "hornbook eval 'r/my run'"


def terminal_output(*arguments: str, cwd: Path) -> bytes:
    """What a command prints on a terminal."""
    ours, its = pty.openpty()
    words = [sys.executable, "-m", "hornbook", *arguments]
    with subprocess.Popen(words, cwd=cwd, env=environment(cwd), stdout=its, stderr=its):
        os.close(its)
        printed = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:
                break
            if not piece:
                break
            printed += piece
    os.close(ours)
    return printed


def test_a_terminal_gets_no_control_characters_of_the_text(place: Path) -> None:
    sample = ("sample", "my run", "--max-new-tokens", "200", "--temperature", "2")
    exact = hornbook(*sample, cwd=place).stdout.decode()
    assert "\x1b" in exact
    assert "\x07" in exact
    shown = terminal_output(*sample, cwd=place).decode().replace("\r\n", "\n")
    assert shown == printable(exact)
    assert readable(Sample("line\n", "\x1b[31m\x07x\n")).plain == "[line]\n\ufffd[31m\ufffdx"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sample", "my run", "--seed", "-1"), b"from 0 to"),
        (("sample", "my run", "--max-new-tokens", "9" * 20), b"from 0 to"),
        (("sample", "my run", "--num-samples", "9" * 18), b"at most 100,000"),
        (("trace", "my run", "--seed", "-1"), b"from 0 to"),
        (("trace", "my run", "--samples", "1.5"), b"whole number"),
        (("train", "text.txt", "--order", "-1"), b"order = -1"),
        (("train", "text.txt", "--minutes", "0"), b"leaves no time to train"),
        (("train", "text.txt", "--minutes", "0.001"), b"give --minutes 0.2 or more"),
        (("train", "text.txt", "--tokenizer", "word"), b"expected one of char, byte, bpe"),
        (("train", "text.txt", "--text", "other"), b"hornbook train other"),
        (("train", "text.txt", "--", "--nosuch"), b"unknown option --nosuch"),
        (("eval", "my run", "text.txt", "b.txt"), b"expected no more arguments, got b.txt"),
        (("eval", "my run", "text.txt", "--text", "b.txt"), b"either"),
    ],
)
def test_a_wrong_number_or_argument_is_explained(
    place: Path, arguments: tuple[str, ...], says: bytes
) -> None:
    done = hornbook(*arguments, cwd=place)
    assert done.returncode == 2
    assert says in done.stderr
    assert b"a bug in hornbook" not in done.stderr


def test_closed_streams_are_no_bugs(place: Path) -> None:
    sample = ("sample", "my run", "--max-new-tokens", "5")
    whole = hornbook(*sample, cwd=place)
    closed = hornbook(*sample, cwd=place, after=">&-")
    assert (closed.returncode, closed.stdout) == (0, b"")
    assert b"standard output is closed" in closed.stderr
    assert hornbook(*sample, cwd=place, after="2>&-").stdout == whole.stdout
    assert hornbook(*sample, "--prompt", "-", cwd=place, after="<&-").stdout == whole.stdout
    empty = hornbook("train", "-", cwd=place, after="<&-")
    assert empty.returncode == 1
    assert b"standard input is empty" in empty.stderr
    full = hornbook(*sample, cwd=place, after="> /dev/full")
    assert full.returncode == 1
    assert full.stderr.count(b"\n") == 1


def test_resuming_is_not_offered_where_there_is_no_run(place: Path) -> None:
    other = hornbook("train", "text.txt", *TINY, "--out", ".", cwd=place)
    assert b"not empty" in other.stderr
    assert b"--resume" not in other.stderr
    ours = hornbook("train", "text.txt", *TINY, "--out", "my run", cwd=place)
    assert b"hornbook train --resume 'my run'" in ours.stderr


def test_a_narrow_ladder_and_comparison_keep_their_losses(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 40 columns and fewer, and with a width that is not known."""
    monkeypatch.chdir(place)

    def table(*arguments: str, width: str, until: str) -> str:
        monkeypatch.setenv("COLUMNS", width)
        assert cli.run(arguments) == 0
        found = capsys.readouterr().out.split(until)[0]
        assert "…" not in found
        return found

    ladder = ("ladder", "text.txt", "--rungs", "bigram,average", "--steps", "4", "--out", "tower")
    wide = table(*ladder, "--seeds", "2", width="200", until="Loss: nats")
    losses = re.findall(r"(?m)^(bigram|average) .*?(\d\.\d{3} ± \d\.\d{3})", wide)
    assert [name for name, _ in losses] == ["bigram", "average"]
    runs = ("tower/bigram-1337", "tower/average-1337", "my run")
    for width in ("40", "24", "0"):
        narrow = table(*ladder, "--seeds", "2", width=width, until="Loss: nats")
        compared = table("report", *runs, width=width, until="The comparison is in")
        for run in runs:
            figures = json.loads((place / run / "report.json").read_text())
            losses.append((Path(run).name, f"{figures['val_nats_per_char']:.4f}"))
        for name, loss in losses:
            assert re.search(rf"(?m)^{name} .*{re.escape(loss)}", narrow + compared), width
        rows = [line for line in (narrow + compared).splitlines()[3:] if line]
        assert width == "0" or max(map(len, rows)) <= int(width)


def test_a_ladder_reads_its_text_as_train_does(place: Path) -> None:
    rows = (json.dumps({"text": f"to be\r\nor é not {i}"}) + "\n" for i in range(60))
    (place / "rows.jsonl").write_bytes("".join(rows).encode("utf-16"))
    read = ("--field", "text", "--newlines", "lf", "--normalize", "nfd", "--encoding", "utf-16")
    short = ("--rungs", "bigram", "--steps", "2", "--json")
    # A copy of standard input is kept, and read in the same way.
    data = (place / "rows.jsonl").read_bytes()
    done = hornbook("ladder", "-", *short, *read, "--out", "rows", stdin=data, cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    assert (
        hornbook("train", "rows.jsonl", *TINY, *read, "--out", "alone", cwd=place).returncode == 0
    )
    for name in ("rows/bigram-1337", "alone"):
        alphabet = hb.load(place / name).tokenizer.token_bytes()
        assert "\N{COMBINING ACUTE ACCENT}".encode() in alphabet
        assert b"\r" not in alphabet
        assert b"{" not in alphabet
    texts = [
        json.loads((place / name / "environment.json").read_text())["corpus_sha256"]
        for name in ("rows/bigram-1337", "alone")
    ]
    assert texts[0] == texts[1]
    again = hornbook("ladder", "-", *short, *read, "--out", "rows", stdin=data, cwd=place)
    assert b"already trained" in again.stderr
    remarked = hornbook("ladder", "rows.jsonl", *short, "--field", "text", cwd=place)
    assert b"line ends: 60 CRLF" in remarked.stderr
    wrong = hornbook("ladder", "rows.jsonl", *short, "--newlines", "crlf", cwd=place)
    assert wrong.returncode == 2
    assert b"expected one of keep, lf" in wrong.stderr


def test_eval_names_no_options_of_train(place: Path) -> None:
    done = hornbook("eval", "my run", "-", stdin=b"c", cwd=place)
    assert done.returncode == 1
    assert b"1 token, but at least 2 are needed" in done.stderr
    assert b"--set" not in done.stderr


def test_several_texts_are_trained_on_in_order(place: Path) -> None:
    (place / "-dash.txt").write_text("last " * 100, encoding="utf-8")
    done = hornbook(
        "train", *TINY, "--quiet", "--json", "--", "text.txt", "-dash.txt", cwd=place
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    run = place / json.loads(done.stdout)["run"]
    assert run.name == "text-and-1-more-1"
    assert (run / "input.txt").read_text(encoding="utf-8") == TEXT + "last " * 100
    (place / "text.txt").rename(place / "elsewhere.txt")
    try:
        assert hornbook("eval", run, cwd=place).returncode == 0
    finally:
        (place / "elsewhere.txt").rename(place / "text.txt")


def test_fields_of_several_texts_are_read_again_as_they_were(tmp_path: Path) -> None:
    for name, size in (("a", 150), ("b", 60)):
        rows = (json.dumps({"text": f"to be or\nnot to {name} {i}"}) + "\n" for i in range(size))
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    corpora = [read_corpus(tmp_path / f"{name}.jsonl", field="text") for name in "ab"]
    config = small(Path("-")).override(field="text")
    trainer = engine.begin(config, out=tmp_path / "run", corpus=join(corpora))
    list(engine.steps(trainer))
    assert hb.load(tmp_path / "run").evaluate().positions == len(trainer.dataset.validation) - 1
    resumed = engine.resume(tmp_path / "run", steps=6)
    assert resumed.dataset.fingerprint == trainer.dataset.fingerprint


def small(text: Path) -> hb.Config:
    return hb.Config().override(
        corpus=str(text), n_layer=1, n_embd=16, n_head=1, block_size=8, batch_size=2, steps=4,
        eval_interval=2, checkpoint_interval=2, sample_tokens=10, compile="off",
    )  # fmt: skip


def test_a_run_keeps_its_text_when_its_folder_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    corpus = read_corpus(text)
    list(
        engine.steps(
            engine.begin(small(text).override(corpus="-"), out=tmp_path / "a", corpus=corpus)
        )
    )
    assert hb.load_config(tmp_path / "a" / "config.toml").data.corpus == "input.txt"
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")
    expected = hb.load(tmp_path / "b").evaluate()
    assert expected.positions > 100
    list(engine.steps(engine.resume(tmp_path / "b", steps=6)))
    assert hb.load_config(tmp_path / "b" / "config.toml").data.corpus == "input.txt"


def test_a_moved_text_is_pointed_to_and_checked(tmp_path: Path) -> None:
    text, moved, other = tmp_path / "text.txt", tmp_path / "moved.txt", tmp_path / "other.txt"
    text.write_text(TEXT, encoding="utf-8")
    other.write_text(TEXT + "x", encoding="utf-8")
    list(engine.steps(engine.begin(small(text), out=tmp_path / "run")))
    expected = hb.load(tmp_path / "run").evaluate()
    text.rename(moved)
    with pytest.raises(DataError, match="--text PATH says where"):
        hb.load(tmp_path / "run").evaluate()
    with pytest.raises(CheckpointError, match="has changed"):
        hb.load(tmp_path / "run", text=str(other)).evaluate()
    assert hb.load(tmp_path / "run", text=str(moved)).evaluate() == expected
    with pytest.raises(DataError, match="--text PATH says where"):
        engine.resume(tmp_path / "run", steps=6)
    list(engine.steps(engine.resume(tmp_path / "run", steps=6, text=str(moved))))
    assert hb.load(tmp_path / "run").config.data.corpus == str(moved)


def test_a_half_made_run_is_removed(tmp_path: Path) -> None:
    class Full(Disk):
        def rename(self, old: Path, new: Path) -> None:
            if new.name == "config.toml":
                raise OSError(28, "No space left on device")
            super().rename(old, new)

    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    for out in (tmp_path / "new", tmp_path / "empty"):
        if out.name == "empty":
            out.mkdir()
        with pytest.raises(CheckpointError):
            engine.begin(small(text), out=out, disk=Full())
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def test_samples_follow_a_line_of_the_validation_part(tmp_path: Path) -> None:
    text = tmp_path / "poem.txt"
    text.write_text("        the line\n    \n        another, indented\n" * 60, encoding="utf-8")
    trainer = engine.begin(small(text), out=tmp_path / "run")
    tokenizer, validation = trainer.dataset.tokenizer, trainer.dataset.validation
    prompt = first_line(tokenizer, validation)
    assert prompt in ("        the line\n", "        another, indented\n")
    assert prompt in tokenizer.decode(validation.tolist())
    evaluated = [each for each in engine.steps(trainer) if each.val_loss is not None]
    assert [each.prompt for each in evaluated] == [prompt, prompt]
    assert all(each.sample for each in evaluated)
    shown = f"[{prompt.rstrip()}]\n"
    assert readable(Sample(prompt, "goes on\n")).plain == f"{shown}goes on"

    card = report.write(report.examine(conclude(trainer)))
    folder = trainer.folder
    figures = json.loads(folder.result.read_text())["sample"]
    assert figures["prompt"] == prompt
    assert len(figures["text"]) == 500
    assert figures["text"] == text_after(prompt, folder.path)
    assert folder.sample.read_text() == shown + figures["text"] + "\n"
    samples = json.loads((folder.path / "report.json").read_text())["samples"]
    assert [each["prompt"] for each in samples] == [prompt] * 3
    assert all(len(each["match_lengths"]) == len(each["text"]) for each in samples)
    assert f"    {shown}" in (folder.path / "report.md").read_text()
    assert (folder.path / "report.html").read_text().count(f">{shown}") == 3
    assert card.result.sample == Sample(**figures)


def text_after(prompt: str, run: Path) -> str:
    """What `hornbook sample --temperature 0.8` prints after a prompt."""
    return hb.load(run).generate(prompt, max_new_tokens=500, temperature=0.8)


@pytest.mark.parametrize(
    ("sample", "prompt"), [("I: (we) go", "we"), ("7 - a", ""), ("ACGT" * 200, "ACGT" * 3)]
)
def test_the_prompt_to_try_is_short(sample: str, prompt: str) -> None:
    assert prompt_from(sample) == prompt
