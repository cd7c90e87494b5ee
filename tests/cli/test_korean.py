"""The command line in Korean: help, plan, result and errors; and what stays in English."""

import json
import os
import re
from pathlib import Path

import pytest
from commands import hornbook
from rich.cells import cell_len

from hornbook import cli
from hornbook.cli.display import SUBJECTS
from hornbook.errors import DataError
from hornbook.language import translated
from hornbook.text.corpus import read_corpus

COMMANDS = [name for name in cli.app if not name.startswith("-")]
# An English sentence: three words in a row. Names of options, files and models are shorter.
ENGLISH = re.compile(r"\b[a-z]{2,} [a-z]{2,} [a-z]{2,}\b")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a run on it, "run", whose training was shown in Korean."""
    place = tmp_path_factory.mktemp("place")
    text = "가나다라 마바사 아자차카 타파하. 강물이 흐르고 또 흘렀다.\n" * 150
    (place / "book.txt").write_text(text, encoding="utf-8")
    done = hornbook(
        "train", "book.txt", "--out", "run", "--preset", "quick", "--steps", "12", "--set",
        "eval_interval=6", "--set", "block_size=16", "--set", "n_embd=32", "--set", "batch_size=4",
        "--set", "sample_tokens=10", "--lang", "ko", cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    (place / "stdout").write_bytes(done.stdout)
    (place / "stderr").write_bytes(done.stderr)
    return place


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_of_every_command_is_korean_in_a_frame_that_is_aligned(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = {}
    for language in ("en", "ko"):
        assert cli.run([*command.split(), "--help", "--lang", language]) == 0
        shown[language] = capsys.readouterr().out
    assert not re.search("[가-힣]", shown["en"])
    assert not ENGLISH.search(shown["ko"].replace("hornbook", "")), command
    framed = [line for line in shown["ko"].splitlines() if line.startswith(("│", "╭", "╰"))]
    assert framed
    assert {cell_len(line) for line in framed} == {80}
    # The same rows: what is not a description is not translated.
    options = {
        language: re.findall(r"^│ \*? *(--[\w-]+)", text, re.MULTILINE)
        for language, text in shown.items()
    }
    assert options["ko"] == options["en"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--lang ko trian", "모르는 명령이에요: trian. 혹시 train인가요? 쓸 수 있는 명령: train"),
        ("train --stpes 3 --lang=ko", "모르는 옵션이에요: --stpes (hornbook --help를 보세요)"),
        ("train --lang ko --steps 1.5", "--steps: 정수여야 해요. 받은 것: '1.5'"),
        ("sample --lang ko", "sample: RUN 값을 줘야 해요."),
        ("sample x --unknown eror --lang ko", "--unknown: eror 값은 쓸 수 없어요."),
        ("train --minutes x --lang ko", "--minutes: x 값을 float 형식으로 읽을 수 없어요."),
        ("sample nowhere --lang ko", "nowhere: 실행 폴더가 아니에요(config.toml이 없어요)"),
        ("corpora one --lang ko", "인수가 남았어요: one"),
        ("train --set n_layr=2 --lang ko", "설정 'n_layr': 없는 이름이에요. 혹시 n_layer인가요?"),
        ("train --model gptt --lang ko", "--model gptt: 다음 가운데 하나여야 해요: ngram, bigram"),
        ("verify nowhere --lang ko", "nowhere: 그런 폴더가 없어요"),
        ("train nowhere.txt --lang ko", "nowhere.txt: 그런 이름의 글이나 파일, 폴더가 없어요."),
        ("plan --gpus 0 --lang ko", "--gpus 0: 1에서"),
        ("plan --model big --lang ko", "--model 'big': 124m, 1.3b, 26b 같은 수여야 해요"),
        ("prepare --lang ko --out store", "글을 주세요: 파일, 폴더, 패턴"),
        ("prepare a.txt --out store --validation 2 --lang ko", "0과 1 사이의 비율이어야 해요"),
        ("train --config no.toml --lang ko", "설정을 읽을 수 없어요: 그런 파일이나 폴더가 없어요"),
        ("corpora --lang de", "expected language 'en' or 'ko', got 'de'"),
        ("corpora --lang", "--lang: expected language 'en' or 'ko'"),
    ],
)
def test_what_a_beginner_does_wrong_is_said_in_korean(
    arguments: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments.split()) in (1, 2)
    told = capsys.readouterr().err
    assert told.startswith("hornbook: ")
    assert error in told
    assert "HORNBOOK_LANG" not in os.environ  # only while the command ran


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (
            "나라의 말씀이 중국과 달라 한자와 서로 통하지 아니하니\n" * 20,
            "--encoding cp949 옵션을 주세요",
        ),
        (b"%PDF-1.7 \xe2", "텍스트가 아니라 PDF 문서 파일이에요. 텍스트를 꺼내세요: pdftotext"),
        ("", "비어 있어요. 글이 있어야 해요"),
    ],
    ids=["cp949", "PDF", "empty"],
)
def test_why_a_file_cannot_be_read_is_said_in_korean(
    content: str | bytes, error: str, tmp_path: Path
) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("cp949"))
    with pytest.raises(DataError) as raised:
        read_corpus(str(path))
    told = translated(raised.value, "ko")
    assert told.startswith(f"{path}: ")
    assert error in told
    assert str(raised.value).isascii() or "나라" in str(raised.value)


def test_a_training_is_shown_in_korean(place: Path) -> None:
    told = lines_of(place / "stderr")
    assert told[0].startswith("글        book: 학습 토큰 ")
    for line in told:
        assert not ENGLISH.search(line), line
    # A line for each subject, in a column of its own whatever its words.
    starts = {translated(each, "ko") for each in SUBJECTS.values()}
    for line in [line for line in told if not line.startswith("알림: ")][:7]:
        subject, rest = re.split(r"\s{2,}|(?<=\S)\s(?=\S)", line, maxsplit=1)
        assert subject in starts, line
        assert cell_len(line) - cell_len(rest) == 10, line
    assert any(re.match(r"6/12스텝 학습 \d\.\d{4} 검증 \d\.\d{4} ", line) for line in told)
    result = (place / "stdout").read_text(encoding="utf-8")
    assert result.startswith("검증 손실(정확한 값)\n")
    for each in (
        "이 모델(동적)",
        "균등 추측",
        "95% 신뢰 구간",
        "성적표는 run/report.html에 있어요",
    ):
        assert each in result
    assert not ENGLISH.search(result.replace("hornbook", "")), result


def test_a_plan_and_what_verify_finds_are_korean(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    commands = (
        ["plan", "--gpus", "16", "--model", "1.3b"],
        ["plan", "--model", "7b"],
        ["verify", str(place / "run")],
    )
    for command in commands:
        assert cli.run([*command, "--lang", "ko"]) == 0
        shown = capsys.readouterr().out
        assert re.search("[가-힣]", shown)
        assert not ENGLISH.search(shown.replace(str(place), "")), shown
        assert cli.run([*command, "--lang", "en"]) == 0
        assert not re.search("[가-힣]", capsys.readouterr().out)


def test_the_report_card_is_korean_and_its_figures_are_not(place: Path) -> None:
    page = (place / "run" / "report.html").read_text(encoding="utf-8")
    assert '<html lang="ko">' in page
    body = re.sub(r"<(style|pre|details)\b.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
    assert not ENGLISH.search(body.partition("<body>")[2] or body), ENGLISH.findall(body)
    assert "nats per character" in (place / "run" / "report.md").read_text(encoding="utf-8")
    figures = json.loads((place / "run" / "report.json").read_text(encoding="utf-8"))
    assert figures["diagnosis"]["sentences"][0].isascii()
    assert "knowing nothing" in {each["name"] for each in figures["scale"]}
    before = {name: (place / "run" / f"report.{name}").read_bytes() for name in ("md", "json")}
    done = hornbook("report", "run", cwd=place, HORNBOOK_LANG="en", LANG="ko_KR.UTF-8")
    assert done.returncode == 0
    assert not re.search("[가-힣]", done.stdout.decode().replace("book.txt", ""))
    english = (place / "run" / "report.html").read_text(encoding="utf-8")
    assert '<html lang="en">' in english
    assert "성적표" not in english
    for name, content in before.items():
        assert (place / "run" / f"report.{name}").read_bytes() == content


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp949"])
def test_an_encoding_without_hangul_gets_english(encoding: str, tmp_path: Path) -> None:
    done = hornbook("corpora", cwd=tmp_path, PYTHONIOENCODING=encoding, LC_ALL="ko_KR")
    assert done.returncode == 0
    shown = done.stdout.decode(encoding)
    assert ("글자 수" in shown) == (encoding not in ("ascii", "latin-1"))
    assert ("characters" in shown) == (encoding in ("ascii", "latin-1"))


def test_json_is_never_translated(tmp_path: Path) -> None:
    printed = {
        hornbook("corpora", "--json", "--lang", language, cwd=tmp_path).stdout
        for language in ("en", "ko")
    }
    assert len(printed) == 1
    assert json.loads(printed.pop())[0]["description"].startswith("The help topics")
