"""The API: what each field does, and what each mistake is told."""

import base64
import math

import numpy as np
import pytest
from serving import Local, events

import hornbook as hb


def text_of(local: Local, **request: object) -> str:
    answer = local.complete(**request)
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]["text"]


@pytest.mark.parametrize("model", ["gpt", "mixture", "bigram"])
def test_a_completion_is_the_text_that_the_run_generates(local: Local, model: str) -> None:
    served = local.models.find(model)
    run = hb.load(served.folder.path, which=served.which)
    expected = run.generate("all ", max_new_tokens=40, seed=5, temperature=0.7)
    asked = {"model": model, "prompt": "all ", "max_tokens": 40, "seed": 5, "temperature": 0.7}
    found = local.complete(**asked).json
    (choice,) = found["choices"]
    assert choice["text"] == expected
    assert choice["finish_reason"] == "length"
    assert found["usage"] == {"prompt_tokens": 4, "completion_tokens": 40, "total_tokens": 44}
    streamed = events(local.complete(**asked, stream=True).body)
    assert "".join(each["choices"][0]["text"] for each in streamed) == expected
    assert [each["choices"][0]["finish_reason"] for each in streamed][-1] == "length"
    assert {each["id"] for each in streamed} == {streamed[0]["id"]}


def test_prompts_come_as_text_lists_and_tokens(local: Local) -> None:
    tokens = local.post("/tokenize", {"model": "gpt", "prompt": "the "}).json["tokens"]
    expected = text_of(local)
    for prompt in ("the ", ["the "], tokens, [tokens]):
        assert text_of(local, prompt=prompt) == expected
    both = local.complete(prompt=["the ", "or "], n=2).json["choices"]
    assert [each["index"] for each in both] == [0, 1, 2, 3]
    assert both[0]["text"] == expected
    assert both[1]["text"] == text_of(local, seed=4), "a choice takes the next seed"
    assert local.post("/detokenize", {"model": "gpt", "tokens": tokens}).json["prompt"] == "the "


def test_the_settings_of_sampling_arrive(local: Local) -> None:
    greedy = text_of(local, temperature=0)
    assert greedy == text_of(local, temperature=0, seed=9)
    assert greedy == text_of(local, top_k=1) == text_of(local, top_p=1e-6)
    assert greedy == text_of(local, min_p=1)
    assert text_of(local, temperature=0, repetition_penalty=10) != greedy
    assert len(set(text_of(local, presence_penalty=2, temperature=0))) >= len(set(greedy))
    (q,) = local.post("/tokenize", {"model": "gpt", "prompt": "q"}).json["tokens"]
    assert text_of(local, logit_bias={str(q): 100}) == "q" * 16
    assert "q" not in text_of(local, logit_bias={str(q): -100}, max_tokens=500, temperature=3)
    once = text_of(local, logit_bias={str(q): 100}, frequency_penalty=2, max_tokens=100)
    assert once[:20] == "q" * 20
    assert text_of(local, seed=None) is not None


def test_it_ends_before_a_stop_string(local: Local) -> None:
    whole = text_of(local, max_tokens=200)
    stop = whole[20:23]
    answer = local.complete(max_tokens=200, stop=[stop, "never there"]).json
    assert answer["choices"][0]["text"] == whole[: whole.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert text_of(local, max_tokens=200, stop=stop) == whole[: whole.index(stop)]
    streamed = events(local.complete(max_tokens=200, stop=stop, stream=True).body)
    assert "".join(each["choices"][0]["text"] for each in streamed) == whole[: whole.index(stop)]


def test_logprobs_are_the_models_own(local: Local) -> None:
    asked = {"max_tokens": 5, "logprobs": 3, "temperature": 0.5}
    (choice,) = local.complete(**asked).json["choices"]
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    assert found["text_offset"] == [0, 1, 2, 3, 4]
    for token, value, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert len(top) == 3
        assert value <= max(top.values()) < 0
        assert top.get(token, value) == value
    streamed = events(local.complete(**asked, stream=True).body)
    parts = [each["choices"][0]["logprobs"]["token_logprobs"] for each in streamed]
    assert [value for part in parts for value in part] == found["token_logprobs"]


def test_an_echoed_prompt_is_scored_token_by_token(local: Local) -> None:
    run = hb.load(local.models.find("gpt").folder.path)
    prompt = "to be, or not to be: that is the question. whether"  # several blocks
    asked = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 0}
    (choice,) = local.complete(**asked).json["choices"]
    assert choice["text"] == prompt
    assert choice["logprobs"]["tokens"] == list(prompt)
    first, *rest = choice["logprobs"]["token_logprobs"]
    assert first is None
    expected = run.evaluate_text(prompt).nats_per_token
    assert -sum(rest) / len(rest) == pytest.approx(expected, rel=1e-4)
    further = asked | {"max_tokens": 10}
    assert text_of(local, **further) == prompt + text_of(local, prompt=prompt, max_tokens=10)
    assert text_of(local, echo=True) == "the " + text_of(local)


def test_usage_comes_at_the_end_of_a_stream(local: Local) -> None:
    asked = {"stream": True, "stream_options": {"include_usage": True}, "n": 3}
    *pieces, last = events(local.complete(**asked).body)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 4, "completion_tokens": 48, "total_tokens": 52}
    assert all("usage" not in piece for piece in pieces)


def test_embeddings_are_the_mean_of_the_last_hidden_states(local: Local) -> None:
    import torch

    run = hb.load(local.models.find("gpt").folder.path)
    text = "to be, or not to be: that is the question" * 5
    idx = torch.tensor([run.tokenizer.encode(text)])
    with torch.no_grad():
        expected = run.model.hidden(idx)[0].mean(dim=0).numpy()
    answer = local.post("/v1/embeddings", {"model": "gpt", "input": [text, "to be"]}).json
    found = np.array(answer["data"][0]["embedding"])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert answer["usage"]["prompt_tokens"] == len(text) + 5
    packed = {"model": "gpt", "input": text, "encoding_format": "base64"}
    raw = base64.b64decode(local.post("/v1/embeddings", packed).json["data"][0]["embedding"])
    np.testing.assert_array_equal(np.frombuffer(raw, np.float32), found.astype(np.float32))
    assert local.post("/v1/embeddings", {"model": "mixture", "input": "all"}).status == 200
    refused = local.post("/v1/embeddings", {"model": "bigram", "input": "all"})
    assert refused.status == 400
    assert "has no hidden states" in refused.message


def test_a_model_that_was_not_tuned_to_chat_says_so(local: Local) -> None:
    messages = [{"role": "user", "content": "hello"}]
    answer = local.post("/v1/chat/completions", {"model": "gpt", "messages": messages})
    assert answer.status == 400
    assert "was not tuned to chat" in answer.message
    assert "/v1/completions" in answer.message


def test_responses_hold_plain_text(local: Local) -> None:
    found = local.post(
        "/v1/responses", {"model": "gpt", "input": "the ", "max_output_tokens": 7, "temperature": 0}
    ).json
    (message,) = found["output"]
    assert message["content"][0]["text"] == text_of(local, max_tokens=7, temperature=0)
    assert found["usage"]["output_tokens"] == 7
    assert found["status"] == "incomplete"


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/completions", {"prompt": "a"}, 400, "model"),
        ("/v1/completions", {"model": "gpt2", "prompt": "a"}, 404, "gpt, mixture, bigram"),
        ("/v1/completions", {"model": "gpt", "prompt": "☃"}, 400, "SNOWMAN"),
        ("/v1/completions", {"model": "gpt", "prompt": [999]}, 400, "below"),
        ("/v1/completions", {"model": "gpt", "prompt": []}, 400, "prompt"),
        ("/v1/completions", {"model": "gpt", "prompt": "a" * 200_001}, 400, "prompt"),
        ("/v1/completions", {"model": "gpt", "prompt": ["a"] * 17}, 400, "prompt"),
        ("/v1/completions", {"model": "gpt", "prompt": ["a"] * 16, "n": 16}, 400, "at most 64"),
        ("/v1/completions", {"model": "gpt", "n": 17}, 400, "n"),
        ("/v1/completions", {"model": "gpt", "n": 2, "best_of": 4}, 400, "best_of"),
        ("/v1/completions", {"model": "gpt", "max_tokens": 16_385}, 400, "max_tokens"),
        ("/v1/completions", {"model": "gpt", "max_tokens": 0}, 400, "max_tokens"),
        ("/v1/completions", {"model": "gpt", "max_tokens": "9"}, 400, "max_tokens"),
        ("/v1/completions", {"model": "gpt", "max_tokens": 10**400}, 400, "max_tokens"),
        ("/v1/completions", {"model": "gpt", "temperature": -1}, 400, "temperature"),
        ("/v1/completions", {"model": "gpt", "temperature": math.nan}, 400, ""),
        ("/v1/completions", {"model": "gpt", "logit_bias": {"x": 1}}, 400, "logit_bias"),
        ("/v1/completions", {"model": "gpt", "stop": ["a"] * 5}, 400, "stop"),
        ("/v1/completions", {"model": "gpt", "stop": [""]}, 400, "stop"),
        ("/v1/completions", {"model": "gpt", "suffix": "x"}, 400, "suffix"),
        ("/v1/completions", ["gpt"], 400, ""),
        ("/v1/chat/completions", {"model": "gpt", "messages": []}, 400, "messages"),
        ("/v1/embeddings", {"model": "gpt", "input": "to be " * 1000}, 400, "at most"),
        ("/tokenize", {"model": "gpt", "prompt": "☃"}, 400, "SNOWMAN"),
        ("/detokenize", {"model": "gpt", "tokens": [10_000]}, 400, "below"),
        ("/v1/nothing", {}, 404, "Not Found"),
    ],
)
def test_every_mistake_gets_an_error_in_openais_shape(
    local: Local, path: str, body: object, status: int, said: str
) -> None:
    answer = local.post(path, body)
    assert answer.status == status, answer.body
    assert answer.json["error"].keys() == {"message", "type", "param", "code"}
    assert said in answer.message
    assert len(answer.body) < 2000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"model":' + b'{"a":' * 50_000,
        b'{"model": "gpt", "prompt": "\\ud800"}',
        b'{"model": "gpt", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"model": "gpt", "prompt": "\\u0000"}',
    ],
    ids=range(8),
)
def test_what_is_no_request_is_refused(local: Local, body: bytes) -> None:
    answer = local.ask("POST", "/v1/completions", body, Content_Type="application/json")
    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"


def test_characters_of_no_vocabulary_may_be_left_out(local: Local) -> None:
    assert text_of(local, prompt="the ☃", unknown="skip") == text_of(local)


def test_models_are_listed_and_found(local: Local) -> None:
    names = [each["id"] for each in local.get("/v1/models").json["data"]]
    assert names == ["gpt", "mixture", "bigram"]
    assert local.get("/v1/models/mixture").json["object"] == "model"
    assert local.get("/v1/models/other").status == 404
    assert local.ask("DELETE", "/v1/models/gpt").status == 405


def test_figures_are_in_prometheus_format(local: Local) -> None:
    before = local.figure("generated_tokens_total")
    text_of(local, max_tokens=7)
    assert local.figure("generated_tokens_total") == before + 7
    assert local.figure("generations") == 0
    for line in local.get("/metrics").body.decode().splitlines():
        assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0


def test_the_page_and_its_files_are_there(local: Local) -> None:
    page = local.get("/")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in ("page.css", "page.js"):
        assert name.encode() in page.body
        assert local.get(f"/{name}").status == 200
    progress = local.get("/training/gpt").json
    assert progress["finished"] is True
    assert [row["step"] for row in progress["rows"]] == list(range(1, 9))
