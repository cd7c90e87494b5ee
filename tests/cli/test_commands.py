"""The commands, as real processes: what they print where, how they end, what they leave."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from commands import environment, hornbook

import hornbook as hb
from hornbook.kernels import compiler

TEXT = "to be, or not to be: that is the question. whether 'tis nobler in the mind\n" * 60
TINY = (
    "--preset", "quick", "--set", "block_size=16", "--set", "n_embd=32", "--set", "batch_size=4",
    "--set", "n_head=2",
    "--set", "eval_interval=10", "--set", "sample_tokens=10",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a run trained on it, through the command line."""
    place = tmp_path_factory.mktemp("place")
    (place / "hamlet.txt").write_text(TEXT, encoding="utf-8")
    done = hornbook("train", "hamlet.txt", "--steps", "30", *TINY, "--json", cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads(done.stdout)
    (place / "result.json").write_bytes(done.stdout)
    assert result["run"] == "runs/hamlet-1"
    return place


def test_train_json_is_one_object_with_the_promised_figures(place: Path) -> None:
    printed = (place / "result.json").read_text()
    assert printed.count("\n") == 1
    result = json.loads(printed)
    assert result["steps"] == 30
    assert result["tokens"] == 30 * 4 * 16
    assert result["parameters"] == hb.load(place / result["run"]).model.parameter_count
    assert 0 < result["val_nats_per_char"] < 4
    assert 0 < result["val_bits_per_byte"] < 6
    assert result["seconds"] > 0
    counted = result["baselines_nats_per_char"]
    assert counted["ngram"] <= counted["bigram"] < counted["uniform"]


def test_the_run_folder_holds_what_it_should(place: Path) -> None:
    run = place / "runs" / "hamlet-1"
    assert {path.name for path in run.iterdir()} == {
        "config.toml", "metrics.jsonl", "environment.json", "tokenizer.json", "checkpoints",
        "sample.txt", "result.json", "page.html", "report.html", "report.md", "report.json",
        "run.json",
        ".lock",
    }  # fmt: skip
    assert len(run.joinpath("metrics.jsonl").read_text().splitlines()) == 30
    assert len(run.joinpath("sample.txt").read_text()) > 100


def test_eval_agrees_with_train_and_with_python(place: Path) -> None:
    done = hornbook("eval", "runs/hamlet-1", "--json", cwd=place)
    found = json.loads(done.stdout)
    trained = json.loads((place / "result.json").read_text())
    assert found["nats_per_char"] == pytest.approx(trained["val_nats_per_char"], abs=1e-6)
    assert set(found) == {
        "nats_per_token", "nats_per_char", "bits_per_char", "bits_per_byte",
        "sliding_nats_per_char", "positions", "standard_error", "copied_share", "skipped_files",
    }  # fmt: skip
    assert found["standard_error"] is None, "exact"
    assert found["positions"] == len(TEXT) - int(0.9 * len(TEXT)) - 1
    assert "nats per character" in hornbook("eval", "runs/hamlet-1", cwd=place).stdout.decode()


def test_eval_of_another_text_minds_its_characters(place: Path) -> None:
    (place / "other.txt").write_text("to be é or not", encoding="utf-8")
    done = hornbook("eval", "runs/hamlet-1", "other.txt", cwd=place)
    assert done.returncode == 1
    assert "U+00E9" in done.stderr.decode()
    done = hornbook(
        "eval", "runs/hamlet-1", "other.txt", "--unknown", "replace", "--json", cwd=place
    )
    assert json.loads(done.stdout)["positions"] == 13
    assert "'é'→'e'" in done.stderr.decode()


def test_sample_streams_its_text_to_stdout(place: Path) -> None:
    arguments = ("sample", "runs/hamlet-1", "--prompt", "to be", "--max-new-tokens", "40")
    done = hornbook(*arguments, cwd=place)
    text = done.stdout.decode()
    assert text.startswith("to be")
    assert len(text) == len("to be") + 40 + 1
    assert text == hornbook(*arguments, cwd=place).stdout.decode()
    expected = hb.load(place / "runs/hamlet-1").generate("to be", max_new_tokens=40)
    assert text == f"to be{expected}\n"


def test_sample_json_is_a_line_a_sample(place: Path) -> None:
    done = hornbook(
        "sample", "runs/hamlet-1", "--num-samples", "3", "--max-new-tokens", "20", "--json",
        cwd=place,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert len({row["text"] for row in rows}) == 3


def test_sample_stops_where_it_is_told(place: Path) -> None:
    whole = hb.load(place / "runs/hamlet-1").generate("to", max_new_tokens=60, temperature=0)
    stop = whole[20:23]
    done = hornbook(
        "sample", "runs/hamlet-1", "--prompt", "to", "--temperature", "0", "--max-new-tokens", "60",
        "--stop", "never appears", "--stop", stop, "--json", cwd=place,
    )  # fmt: skip
    assert json.loads(done.stdout)["text"] == whole[: whole.find(stop)]


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
def test_sample_writes_the_same_with_a_compiler_and_without(place: Path) -> None:
    arguments = ("sample", "runs/hamlet-1", "--temperature", "0", "--max-new-tokens", "40")
    bare = {"PATH": "", "HORNBOOK_CACHE_DIR": str(place / "empty")}
    done = hornbook(*arguments, cwd=place, **bare)
    assert done.returncode == 0
    assert done.stdout == hornbook(*arguments, cwd=place).stdout
    refused = hornbook(*arguments, "--weights", "int8", cwd=place, **bare)
    assert refused.returncode == 2
    assert "no C compiler" in refused.stderr.decode()


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
def test_training_works_without_a_compiler_and_goes_on_without_it(place: Path) -> None:
    bare = {"PATH": "", "CXX": "", "HORNBOOK_CACHE_DIR": str(place / "empty")}
    told = hornbook("doctor", "--json", cwd=place, **bare)
    chosen = json.loads(told.stdout)["chosen"]["compile"]
    assert chosen["value"] == "off"
    assert "no C compiler" in chosen["why"]
    assert "2 times as long" in chosen["why"]
    train = ("train", "hamlet.txt", *TINY, "--json", "--steps")
    assert hornbook(*train, "4", "--out", "without", cwd=place, **bare).returncode == 0
    refused = hornbook(*train, "4", "--set", "compile=c", cwd=place, **bare)
    assert refused.returncode == 2
    assert "compile = 'c': this installation has no C kernels for" in refused.stderr.decode()

    # Started in C, resumed without a compiler: reported, and refused with --strict.
    assert hornbook(*train, "4", "--out", "with", cwd=place).returncode == 0
    longer = ("train", "--resume", "with", "--steps", "6", "--json")
    strict = hornbook(*longer, "--strict", cwd=place, **bare)
    assert strict.returncode == 1
    assert "compile was c, is off" in strict.stderr.decode()
    done = hornbook(*longer, cwd=place, **bare)
    assert done.returncode == 0
    assert "compile was c, is off" in done.stderr.decode()
    assert json.loads(done.stdout)["steps"] == 6


@pytest.mark.parametrize("compiled", ["auto", "off"])
@pytest.mark.parametrize(
    "capped", [{"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"ATEN_CPU_CAPABILITY": "default"}], ids=str
)
def test_processors_with_less_train_too(place: Path, capped: dict[str, str], compiled: str) -> None:
    out = f"as-if-{'-'.join(capped)}-{compiled}"
    asked = ("--steps", "4", "--set", f"compile={compiled}", "--json", "--out", out)
    done = hornbook("train", "hamlet.txt", *TINY, *asked, cwd=place, **capped)
    assert done.returncode == 0, done.stderr.decode()
    assert 0 < json.loads(done.stdout)["val_nats_per_char"] < 4
    if "ONEDNN_MAX_CPU_ISA" in capped:
        told = json.loads(hornbook("doctor", "--json", cwd=place, **capped).stdout)["chosen"]
        assert told["precision"]["value"] == "float32"
        kept = tomllib.loads((place / out / "config.toml").read_text())
        assert kept["train"]["precision"] == "float32"


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
def test_sample_does_not_import_torch(place: Path) -> None:
    code = (
        "import sys, hornbook.cli\n"
        "assert hornbook.cli.run(['sample', 'runs/hamlet-1', '--max-new-tokens', '5']) == 0\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=place, env=environment(place), check=True)


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
def test_what_int8_weights_cost_is_measured_and_told(place: Path) -> None:
    arguments = ("sample", "runs/hamlet-1", "--weights", "int8", "--max-new-tokens", "5")
    told = hornbook(*arguments, cwd=place).stderr.decode()
    exact = float(told.split(" nats a token, ")[1].split()[0])
    expected = json.loads(hornbook("eval", "runs/hamlet-1", "--json", cwd=place).stdout)
    # Spread over so short a text, the blocks overlap; the exact loss reads each position once.
    assert exact == pytest.approx(expected["nats_per_token"], abs=0.05)
    (place / "hamlet.txt").rename(place / "elsewhere.txt")
    done = hornbook(*arguments, cwd=place)
    (place / "elsewhere.txt").rename(place / "hamlet.txt")
    assert done.returncode == 0
    assert "not measured" in done.stderr.decode()


def test_a_reader_that_leaves_early_is_no_error(place: Path) -> None:
    command = [sys.executable, "-m", "hornbook", "sample", "runs/hamlet-1"]
    with subprocess.Popen(
        [*command, "--max-new-tokens", "100000"],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(place),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("train", "no-such-file.txt"), 1, "no-such-file.txt"),
        (("train", "hamlet.txt", "--set", "n_layr=3"), 2, "did you mean n_layer?"),
        (("train", "hamlet.txt", "--set", "n_layer"), 2, "expected key=value"),
        (("train", "hamlet.txt", "--steps", "0"), 2, "steps = 0"),
        (("train", "hamlet.txt", "--steps", "many"), 2, "many"),
        (("train", "hamlet.txt", "--preset", "huge"), 2, "expected one of laptop"),
        (("train", "hamlet.txt", "--config", "none.toml"), 2, "none.toml"),
        (("train", "hamlet.txt", "--out", "hamlet.txt"), 2, "--out hamlet.txt"),
        (("train", "hamlet.txt", "--set", "block_size=9999"), 1, "block_size = 9999"),
        (("train", "--resume", "nowhere"), 1, "nowhere: not a run folder"),
        (("train", "hamlet.txt", "--resume", "runs/hamlet-1"), 2, "cannot be given too"),
        (("train", "hamlet.txt", "--encoding", "klingon"), 2, "klingon"),
        (("train", "empty.txt"), 1, "empty"),
        (("sample", "runs/hamlet-1", "--prompt", "☃"), 1, "SNOWMAN"),
        (("sample", "runs/hamlet-1", "--temperature", "-1"), 2, "temperature = -1"),
        (("sample", "runs/hamlet-1", "--max-new-tokens", "0"), 2, "expected 1 or more"),
        (("sample", "nowhere"), 1, "not a run folder"),
        (("eval", "nowhere"), 1, "not a run folder"),
        (("tain",), 2, "train"),
        (("train", "--no-such-flag"), 2, "no-such-flag"),
    ],
)
def test_a_mistake_is_one_message_and_a_status(
    arguments: tuple[str, ...], status: int, said: str, place: Path
) -> None:
    (place / "empty.txt").write_bytes(b"")
    runs = sorted((place / "runs").iterdir())
    done = hornbook(*arguments, cwd=place)
    message = done.stderr.decode()
    assert done.returncode == status, message
    assert said in message
    assert "Traceback" not in message
    assert message.startswith("hornbook: ")
    assert done.stdout == b""
    assert sorted((place / "runs").iterdir()) == runs, "a mistake leaves no run behind"


def test_settings_come_from_flags_then_environment_then_file(place: Path) -> None:
    (place / "mine.toml").write_text("steps = 3\nseed = 5\nn_layer = 1\n", encoding="utf-8")
    done = hornbook(
        "train", "hamlet.txt", "--config", "mine.toml", "--steps", "2", *TINY, "--json", "--out",
        "ordered", cwd=place, HORNBOOK_STEPS="9", HORNBOOK_SEED="6",
    )  # fmt: skip
    assert json.loads(done.stdout)["steps"] == 2
    config = hb.load_config(place / "ordered" / "config.toml")
    assert (config.train.steps, config.train.seed, config.model.n_layer) == (2, 6, 1)
    done = hornbook("train", "hamlet.txt", cwd=place, HORNBOOK_STEPZ="9")
    assert done.returncode == 2
    assert "did you mean steps?" in done.stderr.decode()


def test_minutes_go_into_network_and_counts_unless_told_otherwise(place: Path) -> None:
    for more, expected in (
        ((), True),
        (("--with-counts", "--model", "gpt"), True),
        (("--model", "gpt"), False),
        (("--preset", "laptop"), False),
        (("--set", "with_counts=false"), False),
        (("--model", "bigram"), False),
    ):
        asked = ("train", "hamlet.txt", "--minutes", "0.5", "--dry-run", "--json", *more)
        done = hornbook(*asked, cwd=place)
        assert done.returncode == 0, done.stderr.decode()
        plan = json.loads(done.stdout)
        assert plan["settings"]["model"]["with_counts"] is expected, more
        assert ("beside n-grams" in plan["reasons"]["size"]) is expected, more


def test_a_run_given_minutes_ends_with_them_and_is_a_run_like_others(place: Path) -> None:
    begun = time.monotonic()
    done = hornbook(
        "train", "hamlet.txt", "--minutes", "0.25", "--json", "--out", "timed", cwd=place
    )
    assert done.returncode == 0, done.stderr.decode()
    assert time.monotonic() - begun < 45, "three times as long, on a machine others use too"
    result = json.loads(done.stdout)
    assert result["kind"] == "network and counts"
    assert result["steps"] > 1
    assert result["val_nats_per_char"] < result["baselines_nats_per_char"]["bigram"]
    for command in (("sample",), ("eval",), ("verify",), ("train", "--resume")):
        done = hornbook(*command, "timed", cwd=place)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout


def test_a_text_on_standard_input_is_kept_with_its_run(place: Path) -> None:
    done = hornbook(
        "train", "-", "--steps", "2", *TINY, "--json", cwd=place, stdin=TEXT.encode("utf-8-sig")
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"byte order mark" in done.stderr
    run = json.loads(done.stdout)["run"]
    assert (place / run / "input.txt").read_bytes() == TEXT.encode("utf-8-sig")
    assert hornbook("eval", run, cwd=place).returncode == 0


def test_a_text_kept_with_its_run_is_read_with_its_settings(place: Path) -> None:
    lines = "".join(json.dumps({"text": line}) + "\n" for line in [*TEXT.splitlines(), "가나다"])
    options = ("--encoding", "utf-16-le", "--field", "text", "--out", "documents")
    data = lines.encode("utf-16-le")
    done = hornbook("train", "-", "--steps", "2", *options, *TINY, cwd=place, stdin=data)
    assert done.returncode == 0, done.stderr.decode()
    for command in ("eval", "verify"):
        done = hornbook(command, "documents", cwd=place)
        assert done.returncode == 0, done.stderr.decode()
    done = hornbook("train", "--resume", "documents", "--steps", "3", "--json", cwd=place)
    assert json.loads(done.stdout)["steps"] == 3
    assert json.loads(done.stdout)["skipped_files"] == []


def test_documents_of_several_files_are_kept_as_documents(place: Path) -> None:
    for name in ("a", "b"):
        lines = (json.dumps({"id": name, "text": line}) + "\n" for line in TEXT.splitlines())
        (place / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    options = ("--field", "text", "--out", "several", *TINY)
    done = hornbook("train", "a.jsonl", "b.jsonl", "--steps", "2", *options, cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    for command in ("eval", "verify"):
        done = hornbook(command, "several", cwd=place)
        assert done.returncode == 0, done.stderr.decode()
    done = hornbook("train", "--resume", "several", "--steps", "3", cwd=place)
    assert done.returncode == 0, done.stderr.decode()


def test_a_text_whose_name_is_not_utf8_is_trained_on(place: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (place / name).mkdir()
    (place / name / f"{name}.txt").write_text(TEXT, encoding="utf-8")
    (place / name / "other.txt").write_bytes("옛날 옛적에 호랑이가\n".encode("cp949") * 9)
    for corpus, run in ((name, "folder"), (f"{name}/{name}.txt", "file")):
        options = ("--steps", "2", "--out", f"of-a-{run}", "--json", *TINY)
        done = hornbook("train", corpus, *options, cwd=place)
        assert done.returncode == 0, done.stderr.decode()
        skipped = json.loads(done.stdout)["skipped_files"]
        assert [(each["file"], each["encoding"]) for each in skipped] == (
            [("other.txt", "cp949")] if run == "folder" else []
        )
        for command in (("eval",), ("report",), ("train", "--resume")):
            done = hornbook(*command, f"of-a-{run}", cwd=place)
            assert done.returncode == 0, done.stderr.decode()
    done = hornbook("train", name, "--steps", "2", "--dry-run", "--json", cwd=place)
    assert [each["file"] for each in json.loads(done.stdout)["skipped_files"]] == ["other.txt"]


def wait_for(process: subprocess.Popen[bytes], pattern: bytes) -> None:
    """Read a process's stderr until the pattern appears."""
    assert process.stderr is not None
    seen = b""
    deadline = time.monotonic() + 90
    while not re.search(pattern, seen):
        assert time.monotonic() < deadline, seen
        assert process.poll() is None, seen
        seen += os.read(process.stderr.fileno(), 4096)


# So many steps that a busy machine does not end the run before a signal is sent.
LONG = ("--steps", "600", *TINY, "--set", "checkpoint_interval=1000")


@pytest.fixture(scope="module")
def uninterrupted(place: Path) -> bytes:
    """The last weights of the run that signals interrupt."""
    hornbook("train", "hamlet.txt", *LONG, "-q", "--out", "uninterrupted", cwd=place)
    return last_weights(place / "uninterrupted")


def last_weights(run: Path) -> bytes:
    return next((run / "checkpoints").glob("step-*")).joinpath("model.safetensors").read_bytes()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_goes_on_to_the_same_end(
    number: int, status: int, place: Path, uninterrupted: bytes
) -> None:
    name = f"stopped-by-{number}"
    with subprocess.Popen(
        [sys.executable, "-m", "hornbook", "train", "hamlet.txt", *LONG, "--out", name],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(place),
        # A shell starts what it puts into the background with SIGINT ignored.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        wait_for(process, rb"step 20/600")
        process.send_signal(number)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == status
    assert b"Traceback" not in rest
    stopped = re.search(rb"stopped at step (\d+) of 600, saved", rest)
    assert stopped
    assert hb.load(place / name, which="last").step == int(stopped[1]) >= 20
    assert f"hornbook train --resume {name}".encode() in rest
    done = hornbook("train", "--resume", name, "--json", cwd=place)
    assert json.loads(done.stdout)["steps"] == 600
    assert last_weights(place / name) == uninterrupted


def test_a_terminal_shows_the_run_as_it_goes(place: Path) -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "hornbook", "train", "hamlet.txt", "--steps", "60", *TINY],
        cwd=place,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment(place, TERM="xterm-256color", COLUMNS="100", LINES="40"),
    ) as process:
        os.close(follower)
        seen = b""
        while select.select([leader], [], [], 60)[0]:
            try:
                seen += os.read(leader, 65536)
            except OSError:  # the process closed its end
                break
        assert process.wait(30) == 0
    os.close(leader)
    screen = seen.decode()
    for part in ("60/60", "sample at step", "tokens/s", "left", "bigram counts", "Next:"):
        assert part in screen, part
    assert "\x1b[" in screen


def test_a_log_has_no_colours_and_stdout_has_only_the_result(place: Path) -> None:
    done = hornbook("train", "hamlet.txt", "--steps", "10", *TINY, cwd=place)
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"step 10/10" in done.stderr
    assert b"this model" in done.stdout
    assert b"step 10/10" not in done.stdout
    quiet = hornbook("train", "hamlet.txt", "--steps", "10", *TINY, "-q", cwd=place)
    assert quiet.stderr == b""


def test_corpora_and_doctor_speak_to_people_and_programs(place: Path) -> None:
    listed = json.loads(hornbook("corpora", "--json", cwd=place).stdout)
    assert {"python-docs", "shakespeare"} <= {row["name"] for row in listed}
    assert b"python-docs" in hornbook("corpora", cwd=place).stdout
    found = json.loads(hornbook("doctor", "--json", cwd=place).stdout)
    assert found["chosen"]["device"]["value"] in ("cpu", "cuda", "mps")
    assert found["chosen"]["compile"]["why"]
    assert found["chosen"]["writing"]["value"] == ("C" if compiler() else "torch")
    assert b"precision" in hornbook("doctor", cwd=place).stdout


def test_version_and_help(place: Path) -> None:
    assert hornbook("--version", cwd=place).stdout.decode().strip() == hb.__version__
    for arguments in ((), ("--help",), ("train", "--help"), ("sample", "-h")):
        done = hornbook(*arguments, cwd=place)
        assert done.returncode == 0
        assert b"Usage" in done.stdout
