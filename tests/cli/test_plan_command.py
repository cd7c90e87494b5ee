"""`hornbook plan`: what it prints, and what it refuses."""

import json
import subprocess
import sys

import pytest

from hornbook.cli import run as command


def test_a_plan_says_all_that_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--gpus", "64", "--gpu", "h100", "--model", "1.3b", "--tokens", "26b"]
    assert command(arguments) == 0
    printed = capsys.readouterr().out
    for said in (
        "64 x H100 SXM 80 GB, 8 machines of 8", "1,312,661,504 parameters", "memory a GPU",
        "without recomputation", "GB a step from each GPU", "tokens/s", "MFU", "hours", "USD",
        "lambda.ai/instances, 2026-09-20", "flops a token = 6 x", "GPUs needed",
    ):  # fmt: skip
        assert said in printed
    assert command([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"]
    assert found["parallel"] == "ddp"
    assert found["run"]["tokens"] == 26e9
    assert found["fewest_gpus"] == {"ddp": 1, "fsdp": 1}
    assert f"{found['tokens_per_second']:,.0f} tokens/s" in printed
    assert f"{found['memory']['total'] / 1e9:.1f} GB of 80 GB" in printed


def test_without_a_number_several_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["plan", "--model", "7b", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert [each["run"]["gpus"] for each in plans] == [1, 8, 64, 1024]
    assert [each["fits"] for each in plans] == [False, True, True, True]
    assert plans[1]["parallel"] == "fsdp"
    assert plans[0]["fewest_gpus"]["ddp"] is None
    # Each GPU has at least a block.
    assert plans[3]["run"]["batch_tokens"] >= 1024 * 2048
    assert command(["plan", "--model", "7b"]) == 0
    printed = capsys.readouterr().out
    assert "does not fit" in printed
    assert "1,024" in printed


def test_settings_change_the_shape_and_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    shape = [
        "--set",
        "n_layer=6",
        "--set",
        "n_embd=384",
        "--set",
        "n_head=6",
        "--set",
        "block_size=256",
    ]
    assert command(["plan", "--gpus", "1", *shape, "--vocabulary", "65", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"]["schema"]["n_layer"] == 6
    assert found["parameters"] == 10_672_512
    way = [
        "--set",
        "recompute=true",
        "--set",
        "optimizer=adamw",
        "--parallel",
        "fsdp",
        "--usd-per-hour",
        "2",
    ]
    assert command(["plan", "--gpus", "8", "--model", "124m", *way, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["parallel"], found["recompute"], found["run"]["muon"]) == ("fsdp", True, False)
    assert found["usd"] == pytest.approx(found["hours"] * 16)
    blocks = ["--set=batch_size=96", "--set=gradient_accumulation=2"]
    assert command(["plan", "--gpus", "8", "--model", "124m", *blocks, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"]["batch_tokens"] == 192 * 1024
    assert found["micro_batch"] * found["passes"] == 24


def test_absurd_amounts_take_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--batch-tokens", "9000t"], ["--gpus", "1000000"], ["--tokens", "9000t"]):
        assert command(["plan", "--gpus", "1", "--model", "1t", *more, "--json"]) in (0, 2)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--gpus 8", "--model is missing"),
        ("--gpus 0 --model 1b", "expected from 1 to"),
        ("--gpus 8 --model 1b --gpu h101", "did you mean h100?"),
        ("--gpus 8 --model huge", "expected a number like"),
        ("--gpus 8 --model 1b --tokens many", "--tokens 'many'"),
        ("--gpus 8 --model 1b --set n_layers=3", "did you mean n_layer?"),
        ("--gpus 8 --model 1b --set n_embd=2047", "does not split"),
        ("--gpus 8 --model 1b --set dropoot=0.1", "did you mean dropout?"),
        ("--gpus 8 --model 1b --set steps=10", "--set steps: a plan for GPUs reads"),
        ("--gpus 8 --model 1b --set batch_size=8 --batch-tokens 1m", "leave one out"),
        ("--gpus 8 --model 1b --set model=bigram", "a plan on paper is of a gpt"),
        ("--gpus 8 --model 1b --usd-per-hour -1", "--usd-per-hour"),
        ("--gpus 8 --model 1b --vocabulary 0", "--vocabulary 0"),
        ("--gpus 1.5 --model 1b", "expected a whole number"),
    ],
)
def test_a_wrong_plan_is_one_line(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["plan", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_it_does_not_import_torch() -> None:
    code = (
        "import sys; from hornbook.cli import run; "
        "status = run(['plan', '--model', '124m']); sys.exit(status or 'torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode
        == 0
    )
