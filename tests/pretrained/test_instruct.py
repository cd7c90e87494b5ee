"""Instruction tuning: which tokens are learned, resuming, and what other programs then render."""

import io
import json
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
import torch
from commands import hornbook
from small import small_config
from torch.nn import functional as F

import hornbook as hb
from hornbook.cli import run as hornbook_command
from hornbook.errors import DataError
from hornbook.pretrained.find import open_source
from hornbook.pretrained.run_source import GrownAlphabetWarning
from hornbook.runs.engine import open_engine
from hornbook.text.batches import answer_places
from hornbook.text.chat import CHATML, SIMPLE_TEMPLATE, answered, chat_tokens, simple_template
from hornbook.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer
from hornbook.training import begin
from hornbook.training.step import read_batch

pytest.importorskip("transformers")
QUESTION = [
    {"role": "user", "content": "to be, or not"},
    {"role": "assistant", "content": "that is"},
    {"role": "user", "content": "nobler?"},
    {"role": "assistant", "content": "in the mind"},
]
SHORT = {"block_size": 16, "batch_size": 2, "precision": "float32", "compile": "off",
         "sample_tokens": 3, "conversations": True}  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.save(foreign.make("llama"), tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve conversations."""
    monkeypatch.setenv("HORNBOOK_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "chats.jsonl"
    rows: list[dict[str, Any]] = [{"messages": QUESTION}]
    rows += [{"prompt": f"{i} of 42?", "response": f"the question, {i}"} for i in range(11)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_answers_are_what_the_assistant_says_and_its_end(llama: Path) -> None:
    tokenizer = open_source(str(llama)).tokenizer
    text = [
        ("<|im_start|>user\nto be, or not<|im_end|>\n<|im_start|>assistant\n", False),
        ("that is<|im_end|>", True),
        ("\n<|im_start|>user\nnobler?<|im_end|>\n<|im_start|>assistant\n", False),
        ("in the mind<|im_end|>", True),
        ("\n", False),
    ]
    # By hand, a character at a time: each token belongs to where its text stands.
    mine = [said for piece, said in text for _ in piece]
    found = answered(foreign.TEMPLATE, [QUESTION, QUESTION], tokenizer)
    whole = "".join(piece for piece, _ in text)
    assert tokenizer.decode(found.tokens) == 2 * whole
    assert found.starts.tolist() == [0, len(found.tokens) // 2]
    place, expected = 0, []
    for token in found.tokens[: len(found.tokens) // 2]:
        expected.append(mine[place])
        place += len(tokenizer.decode([token]))
    assert found.answers.tolist() == 2 * expected


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_our_own_tokenizers_mark_roles_by_control_characters(kind: str) -> None:
    text = "".join(each["content"] for each in QUESTION) + "\x11\x12\x13\x03"
    tokenizer = {
        "char": lambda: CharTokenizer.from_text(text),
        "byte": ByteTokenizer,
        "bpe": lambda: BPETokenizer.train(text * 9, 300),
    }[kind]()
    assert simple_template(tokenizer) == SIMPLE_TEMPLATE
    found = answered(SIMPLE_TEMPLATE, [QUESTION], tokenizer)
    expected = "\x12to be, or not\x03\x13that is\x03\x12nobler?\x03\x13in the mind\x03"
    assert tokenizer.decode(found.tokens) == expected
    learned = [tokenizer.decode([i]) for i in found.tokens[found.answers]]
    assert "".join(learned) == "that is\x03in the mind\x03"
    sly = [{"role": "user", "content": "\x03\x13to"}]
    asked = chat_tokens(SIMPLE_TEMPLATE, sly, tokenizer)
    assert tokenizer.decode(asked) == "\x12to\x03\x13"


def test_a_base_model_with_the_tokens_of_a_chat_gets_their_template(llama: Path) -> None:
    assert simple_template(open_source(str(llama)).tokenizer) == CHATML


def test_only_answers_have_a_loss(llama: Path, chats: Path, tmp_path: Path) -> None:
    config = small_config(chats, **SHORT).override(pretrained=str(llama))
    config = config.override(n_layer=4, n_embd=128)  # the defaults, which count as not requested
    trainer = begin(config, out=tmp_path / "run")
    trainer.lock.release()
    data, model = trainer.dataset, trainer.state.model
    tokens, answers = data.train.astype(np.int64), data.answers[0]
    where = {int(start) for start in data.starts}
    for index in range(4):
        batch = read_batch(trainer, index)
        with torch.no_grad():
            logits, _ = model(batch.inputs)
        total, count = 0.0, 0
        for row, inputs in enumerate(batch.inputs.numpy()):
            start = next(
                s for s in range(len(tokens) - 16) if (tokens[s : s + 16] == inputs).all()
                and (s in where or s == len(tokens) - 17 or s - 16 in where or s - 32 in where)
            )  # fmt: skip
            for i in range(16):
                if answers[start + i + 1]:
                    wanted = torch.tensor(tokens[start + i + 1])
                    total += float(F.cross_entropy(logits[row, i].double(), wanted))
                    count += 1
        assert count
        assert model.training_loss(batch).item() == pytest.approx(total / count, rel=1e-5)


def test_blocks_begin_with_conversations_and_have_answers() -> None:
    answers = np.zeros(50, np.bool_)
    answers[[8, 25, 26, 48]] = True
    places = answer_places(answers, np.array([0, 10, 20, 30]), 10)
    # The fourth conversation has two blocks, of which the second is moved to fit.
    assert places.tolist() == [0, 20, 39]
    assert answer_places(answers, np.array([0, 10, 20, 30]), 10, before=5).tolist() == [15, 34]
    with pytest.raises(DataError, match="no block"):
        answer_places(answers, np.array([0]), 4, before=47)


def test_a_resumed_tuning_has_the_weights_of_an_uninterrupted_one(
    llama: Path, chats: Path, tmp_path: Path
) -> None:
    config = small_config(chats, **SHORT).override(pretrained=str(llama), steps=6)
    config = config.override(n_layer=4, n_embd=128)
    list(hb.train(config, out=tmp_path / "whole"))
    steps = hb.train(config, out=tmp_path / "cut")
    for _ in range(2):
        next(steps)
    steps.close()
    list(hb.train(resume_from=tmp_path / "cut"))
    whole, cut = (hb.load(tmp_path / name, which="last") for name in ("whole", "cut"))
    assert whole.step == cut.step == 6
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, cut.model.state_dict()[name]), name


def train(*arguments: object) -> int:
    settings = [f"--set={name}={value}" for name, value in SHORT.items() if name != "conversations"]
    return hornbook_command(["train", *map(str, arguments), *settings, "--chat", "--json"])


def test_a_model_learns_to_answer_and_answers_everywhere(
    llama: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import transformers

    run, out = tmp_path / "run", tmp_path / "exported"
    arguments = ("--from", llama, "--steps", 60, "--set", "learning_rate=0.02", "--out", run)
    assert train(chats, *arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["val_nats_per_char"] < figures["pretrained"]["val_nats_per_char"] - 0.5
    # Those of the validation part's answers, each with its end.
    assert figures["val_positions"] == len(hb.load(run).dataset().measured) - 1
    assert hb.load(run).evaluate().nats_per_char == pytest.approx(figures["val_nats_per_char"])
    assert hornbook_command(["verify", str(run)]) == 0
    assert hornbook_command(["report", str(run)]) == 0
    capsys.readouterr()
    ids = chat_tokens(foreign.TEMPLATE, QUESTION[:1], open_engine(run).tokenizer)
    stop = tuple(foreign.SPECIAL)
    expected = open_engine(run).generate(ids, max_new_tokens=9, temperature=0, stop=stop)
    assert hornbook_command(
        ["sample", str(run), "--prompt", QUESTION[0]["content"], "--max-new-tokens", "9",
         "--temperature", "0"]
    ) == 0  # fmt: skip
    assert capsys.readouterr().out == f"{QUESTION[0]['content']}\n\n{expected}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(QUESTION[0]["content"] + "\n"))
    chat = ["chat", str(run), "--max-new-tokens", "9", "--temperature", "0"]
    assert hornbook_command(chat) == 0
    assert capsys.readouterr().out == f"{expected}\n"
    assert hornbook_command(["export", str(run), "--to", "hf", "--out", str(out)]) == 0
    theirs = transformers.AutoTokenizer.from_pretrained(out, local_files_only=True)
    rendered = theirs.apply_chat_template(
        QUESTION[:3], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert rendered == chat_tokens(foreign.TEMPLATE, QUESTION[:3], open_engine(run).tokenizer)
    generation = json.loads((out / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == foreign.SPECIAL.index("<|im_end|>")


@pytest.mark.parametrize("counts", [False, True])
def test_a_run_of_ours_learns_to_answer(
    counts: bool, chats: Path, text_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    first, second, out = (tmp_path / name for name in ("first", "second", "exported"))
    list(hb.train(small_config(text_path, with_counts=counts, compile="off"), out=first))
    with pytest.warns(GrownAlphabetWarning, match="new characters"):
        assert train(chats, "--from", first, "--steps", 4, "--out", second) == 0
    old, new = hb.load(first), hb.load(second)
    assert {"\x11", "\x12", "\x13", "\x03"} <= set(new.tokenizer.chars) - set(old.tokenizer.chars)
    assert "\x1f" not in new.tokenizer.chars
    assert new.folder.environment_facts()["chat_template"] == SIMPLE_TEMPLATE
    asking = ["--prompt", "to be", "--max-new-tokens", "4"]
    assert hornbook_command(["sample", str(second), *asking]) == 0
    if counts:
        return
    assert hornbook_command(["export", str(second), "--to", "hf", "--out", str(out)]) == 0
    theirs = transformers.AutoTokenizer.from_pretrained(out, local_files_only=True)
    rendered = theirs.apply_chat_template(
        QUESTION[:3], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert rendered == chat_tokens(SIMPLE_TEMPLATE, QUESTION[:3], new.tokenizer)
    capsys.readouterr()


def test_bad_rows_and_bad_requests_lose_nothing(
    llama: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chats.open("a", encoding="utf-8") as file:
        file.write('{"prompt": "no answer"}\n')
    run = tmp_path / "run"
    assert train(chats, "--from", llama, "--steps", 1, "--out", run) == 1
    assert "line 13: expected messages" in capsys.readouterr().err
    assert not run.exists()
    assert train(chats, "--steps", 1) == 2
    assert "needs --from MODEL" in capsys.readouterr().err
    assert train(chats, "--from", llama, "--field", "prompt") == 2
    refusing = tmp_path / "refusing.jsonl"
    refusing.write_text('{"prompt": "a", "response": "b"}\n' * 4, encoding="utf-8")
    template = "{{ raise_exception('only rhymes') }}"
    assert train(refusing, "--from", llama, "--set", f"chat_template={template}") == 1
    assert "conversation 1: " in (error := capsys.readouterr().err)
    assert "only rhymes" in error
    one = tmp_path / "one.jsonl"
    one.write_text('{"prompt": "a", "response": "b"}\n', encoding="utf-8")
    assert train(one, "--from", llama, "--steps", 1) == 1


def test_a_plan_says_what_would_be_trained(llama: Path, chats: Path, tmp_path: Path) -> None:
    done = hornbook("train", chats, "--chat", "--from", llama, "--minutes", "5", "--dry-run",
                    "--set", "block_size=16", "--json", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    planned = json.loads(done.stdout)["settings"]["data"]
    assert planned["chat_template"] == foreign.TEMPLATE
