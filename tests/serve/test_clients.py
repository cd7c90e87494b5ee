"""The clients that people have: the official one, `llm`, litellm and curl."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from serving import KEY, Local, serving

from hornbook.serve.server import Options

ASKED = {"model": "gpt", "prompt": "the ", "max_tokens": 40, "seed": 3}


@pytest.fixture(scope="module")
def client(local: Local) -> OpenAI:
    return OpenAI(base_url=f"{local.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def expected(local: Local) -> str:
    return local.complete(max_tokens=40).json["choices"][0]["text"]


def test_the_official_client_completes_and_streams(client: OpenAI, expected: str) -> None:
    whole = client.completions.create(**ASKED, logprobs=2)
    assert whole.choices[0].text == expected
    assert whole.choices[0].logprobs.tokens == list(expected)
    assert whole.usage.completion_tokens == 40
    stream = client.completions.create(**ASKED, stream=True, extra_body={"top_k": 0, "min_p": 0})
    assert "".join(piece.choices[0].text for piece in stream) == expected
    stopped = client.completions.create(**ASKED, stop=[expected[10:13]])
    assert stopped.choices[0].finish_reason == "stop"
    assert [model.id for model in client.models.list()] == ["gpt", "mixture", "bigram"]
    assert len(client.embeddings.create(model="gpt", input="to be").data[0].embedding) == 32
    answer = client.responses.create(model="gpt", input="the ", max_output_tokens=9)
    assert len(answer.output_text) == 9


def test_the_official_client_streams_responses(client: OpenAI) -> None:
    asked = {"model": "gpt", "input": "the ", "max_output_tokens": 300, "temperature": 0}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        found = list(stream)
    final = found[-1].response
    assert final.output_text == whole.output_text
    assert final.status == whole.status == "incomplete"
    assert final.usage == whole.usage
    deltas = [each.delta for each in found if each.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert [each.sequence_number for each in found] == list(range(len(found)))
    kinds = list(dict.fromkeys(each.type.removeprefix("response.") for each in found))
    assert kinds == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "incomplete",
    ]  # fmt: skip


def test_the_official_client_understands_the_errors(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.BadRequestError, match="not tuned to chat") as caught:
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "a"}])
    assert caught.value.code == "not_a_chat_model"


def test_the_official_client_works_asynchronously_and_aborts(local: Local, expected: str) -> None:
    async def both() -> None:
        async with AsyncOpenAI(base_url=f"{local.url}/v1", api_key="none") as client:
            texts = await asyncio.gather(*(client.completions.create(**ASKED) for _ in range(5)))
            assert {text.choices[0].text for text in texts} == {expected}
            long = ASKED | {"max_tokens": 16_000, "n": 16}
            stream = await client.completions.create(**long, stream=True)
            async for _ in stream:
                break
            await stream.close()
            with pytest.raises(openai.APITimeoutError):
                await client.with_options(max_retries=0, timeout=0.2).completions.create(**long)

    asyncio.run(both())
    end = time.monotonic() + 20
    while local.figure("generations"):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_official_client_sends_its_key(runs: list[Path]) -> None:
    with serving(runs[:1], Options(api_keys=(KEY,))) as server:
        right = OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
        assert len(right.completions.create(**ASKED).choices[0].text) == 40
        wrong = OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            wrong.completions.create(**ASKED)


def test_llm_completes(local: Local, expected: str, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: mine\n  model_name: gpt\n  api_base: {local.url}/v1\n  completion: true\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "llm", "-m", "mine", "the ", "-o", "max_tokens", "40", "-o", "seed",
         "3", "--no-log"],
        env={"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.removesuffix("\n") == expected.rstrip("\n") or done.stdout == expected + "\n"


def test_litellm_completes(local: Local, expected: str) -> None:
    program = f"""
import json, litellm
asked = {ASKED!r}
asked["model"] = "text-completion-openai/gpt"
found = litellm.text_completion(**asked, api_base="{local.url}/v1", api_key="none")
print(json.dumps(found.choices[0].text))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_curl_completes(local: Local, expected: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    done = subprocess.run(
        ["curl", "-s", f"{local.url}/v1/completions", "-H", "Content-Type: application/json", "-d",
         json.dumps(ASKED)],
        capture_output=True,
        timeout=60,
        check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["choices"][0]["text"] == expected
