"""Models of other families compute here what they compute in transformers."""

import json
from pathlib import Path

import foreign
import numpy as np
import pytest
import torch

import hornbook as hb
from hornbook.config import Config
from hornbook.errors import HornbookError
from hornbook.infer.torch_decoder import TorchDecoder
from hornbook.models.registry import build
from hornbook.models.stack import StackModel
from hornbook.pretrained.find import open_source
from hornbook.pretrained.source import Source, SourceError

pytest.importorskip("transformers")
KINDS = ("llama", "llama3", "qwen3", "gpt2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: foreign.save(foreign.make(kind), root / kind) for kind in KINDS}


def model_of(source: Source) -> StackModel:
    settings = {key: value for key, value in source.settings.items() if key != "tokenizer"}
    model = build(Config().override(**settings).model, source.tokenizer.vocab_size)
    source.load_into(model)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_transformers_computes(kind: str, folders: dict[str, Path]) -> None:
    import transformers

    source = open_source(str(folders[kind]))
    ours = model_of(source)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folders[kind]).eval()
    idx = torch.randint(300, (2, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, _ = ours(idx)
        # Rows that no token has are left out.
        expected = theirs(idx).logits[..., : source.tokenizer.vocab_size]
    assert (found - expected).abs().max() < 1e-5
    assert source.chat_template == foreign.TEMPLATE


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_changes_nothing(kind: str, folders: dict[str, Path]) -> None:
    model = model_of(open_source(str(folders[kind])))
    idx = torch.randint(300, (1, 40), generator=torch.Generator().manual_seed(2))
    decoder = TorchDecoder(model)
    decoder.forward([idx[0, :30].tolist()], [0], [0])
    for at in range(30, 40):
        last = decoder.forward([[int(idx[0, at])]], [0], [at])[0]
    whole, _ = model(idx)
    np.testing.assert_allclose(last, whole[0, -1].detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_tokenizer_is_theirs_and_a_text_cannot_spell_a_special_token(
    folders: dict[str, Path],
) -> None:
    from tokenizers import Tokenizer

    source = open_source(str(folders["llama"]))
    theirs = Tokenizer.from_file(str(folders["llama"] / "tokenizer.json"))
    text = foreign.TEXT + " é 한국어 the  end.\n\n\t2026  " * 700
    assert source.tokenizer.encode(text) == theirs.encode(text).ids
    assert source.tokenizer.decode(source.tokenizer.encode(text)) == text
    special = set(range(len(foreign.SPECIAL)))
    marked = "<|im_start|>user\nhi<|im_end|>"
    assert not special & set(source.tokenizer.encode(marked))
    assert source.tokenizer.encode_marked(marked)[0] == foreign.SPECIAL.index("<|im_start|>")
    again = type(source.tokenizer)(json.loads(source.tokenizer.to_json()))
    assert again == source.tokenizer


def test_large_vocabularies_have_the_same_loss_and_gradients_in_chunks(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hornbook.models import stack
    from hornbook.models.language_model import Batch

    model = model_of(open_source(str(folders["llama"])))
    idx = torch.randint(300, (3, 33), generator=torch.Generator().manual_seed(3))
    batch = Batch(idx[:, :-1], idx[:, 1:])

    def loss_and_gradients() -> list[torch.Tensor]:
        model.zero_grad()
        loss = model.training_loss(batch)
        loss.backward()
        return [loss.detach(), *(each.grad.clone() for each in model.parameters())]

    plain, nats = loss_and_gradients(), model.token_losses(*batch[:2])
    monkeypatch.setattr(stack, "LARGE_VOCABULARY", 100)
    monkeypatch.setattr(stack, "CHUNK_LOGITS", 300 * 7)
    for recompute in (False, True):
        model.recompute = recompute
        for found, expected in zip(loss_and_gradients(), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.token_losses(*batch[:2]), nats)


def test_what_is_not_supported_is_refused_in_a_line(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    def spoiled(**changes: object) -> str:
        place = tmp_path / "spoiled"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folders["llama"], place)
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(HornbookError) as caught:
            open_source(str(place))
        message = str(caught.value)
        assert "\n" not in message
        return message

    assert "supported are Llama" in spoiled(model_type="mamba")
    assert "hidden_act" in spoiled(hidden_act="gelu")
    assert "attention_bias" in spoiled(attention_bias=True)
    assert "num_hidden_layers" in spoiled(num_hidden_layers=10**12)
    assert "no weight for 'blocks.2" in spoiled(num_hidden_layers=3)
    assert "that this architecture does not have" in spoiled(num_hidden_layers=1)
    assert "shape" in spoiled(intermediate_size=2**20)
    assert "scaled by 'yarn'" in spoiled(rope_parameters={"rope_type": "yarn", "factor": 2.0})
    assert "n_kv_head" in spoiled(num_key_value_heads=3)


def test_a_pickle_is_not_read(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folders["llama"] / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(SourceError, match="is a pickle, which can run code"):
        open_source(str(tmp_path))


def test_an_index_cannot_name_files_elsewhere(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folders["llama"] / name).read_bytes())
    index = tmp_path / "model.safetensors.index.json"
    for name in ("../llama/model.safetensors", "/etc/passwd", "a/b.safetensors", 7, ""):
        index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
        with pytest.raises(SourceError, match="no safetensors file of the folder"):
            open_source(str(tmp_path))


def test_a_name_that_is_nothing_says_what_is_expected() -> None:
    with pytest.raises(HornbookError, match="expected a run, a folder in Hugging Face's format"):
        list(hb.train(hb.preset("quick").override(pretrained="no-such-thing")))
