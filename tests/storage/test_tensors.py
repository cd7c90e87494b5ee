"""Files of tensors, written in pieces: the bytes of the safetensors library."""

import pytest
import safetensors.torch
import torch

from hornbook.storage import tensors
from hornbook.storage.tensors import pieces


def some_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "blocks.1.weight": torch.randn(5, 3),
        "blocks.0.weight": torch.randn(3, 5).T,  # not contiguous
        "byte": torch.arange(7, dtype=torch.uint8),
        "counts": torch.arange(11),
        "flags": torch.tensor([True, False, True]),
        "half": torch.randn(2, 2).bfloat16(),
        "other half": torch.randn(2).half(),
        "step": torch.zeros(()),
        "nothing": torch.zeros(0, 4),
        "글자 \"quoted\"\n": torch.ones(1, dtype=torch.int16),
    }  # fmt: skip


def test_the_bytes_are_the_librarys() -> None:
    made = some_tensors()
    expected = safetensors.torch.save({name: each.contiguous() for name, each in made.items()})
    assert b"".join(pieces(made)) == expected
    assert b"".join(pieces({})) == safetensors.torch.save({})


def test_a_small_file_is_one_piece_and_a_large_one_several(monkeypatch: pytest.MonkeyPatch) -> None:
    made = some_tensors()
    (whole,) = pieces(made)
    monkeypatch.setattr(tensors, "PIECE_BYTES", 64)
    parts = list(pieces(made))
    assert len(parts) > 2
    assert b"".join(parts) == whole


def test_a_table_under_two_names_is_written_twice() -> None:
    table = torch.randn(4, 4)
    loaded = safetensors.torch.load(b"".join(pieces({"embedding": table, "logits": table})))
    assert torch.equal(loaded["embedding"], table)
    assert torch.equal(loaded["logits"], table)
