"""Token arrays on disk: written a piece at a time, gone on with after a kill, whole or not used."""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hornbook.storage import cache
from hornbook.storage.files import open_regular
from hornbook.text.tokenizer import Tokenizer

Tokens = NDArray[np.unsignedinteger]
Chunks = Callable[[int], Iterator[str]]

SAVE_BYTES = 1 << 26
# A batch releases the pages of a larger array after reading them; of a smaller one it gains little.
MOST_MAPPED_BYTES = 1 << 28
_HEADER_BYTES = 128


@dataclass(frozen=True)
class Progress:
    """How far an array has been written: what is on the disk for certain, and its hash."""

    characters: int = 0
    tokens: int = 0
    sha256: str = hashlib.sha256().hexdigest()


def open_arrays(folder: Path, names: Iterable[str], vocab_size: int) -> list[Tokens] | None:
    """The arrays of a folder in the cache, checked and memory-mapped; None where there are none."""
    if not cache.is_sound(folder):
        return None
    try:
        arrays = [_mapped(folder / f"{name}.npy", vocab_size) for name in names]
    except (OSError, ValueError):
        return None
    return arrays if all(_are_tokens(array, vocab_size) for array in arrays) else None


def write_arrays(
    folder: Path, parts: dict[str, Chunks], tokenizer: Tokenizer, *, save_bytes: int = SAVE_BYTES
) -> list[Tokens]:
    """Encode texts into arrays of a folder in the cache, all or none, and map them.

    ``parts`` gives for each array's name its text in chunks, from a character on: an attempt after
    a kill encodes only what the one before had not saved, as it does every `save_bytes`.
    Raises: OSError when the cache cannot be written; UnknownCharacterError; DataError.
    """
    with cache.fill(folder) as place:
        for name, chunks in parts.items():
            _write_array(place / f"{name}.npy", chunks, tokenizer, save_bytes)
        for name in parts:
            _progress_file(place / f"{name}.npy").unlink()
    return [_mapped(folder / f"{name}.npy", tokenizer.vocab_size) for name in parts]


def _mapped(path: Path, vocab_size: int) -> Tokens:
    """An array of ours, memory-mapped. Raises: OSError, ValueError for any other file."""
    dtype = np.min_scalar_type(vocab_size - 1)
    with open_regular(path) as file:
        length = (os.fstat(file.fileno()).st_size - _HEADER_BYTES) // dtype.itemsize
        # Compared, where np.load would parse: it knows pickles, archives and nested headers too.
        if length < 1 or file.read(_HEADER_BYTES) != _header(dtype, length):
            raise ValueError(f"{path}: not an array of {length} tokens")
    return np.memmap(path, dtype, "r", _HEADER_BYTES, (length,))


def _are_tokens(array: Tokens, vocab_size: int) -> bool:
    """Whether every id is one: any other would end training badly."""
    for start in range(0, len(array), SAVE_BYTES):
        if array[start : start + SAVE_BYTES].max() >= vocab_size:
            return False
        release(array)
    return True


def _write_array(path: Path, chunks: Chunks, tokenizer: Tokenizer, save_bytes: int) -> None:
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    done, digest = _so_far(path, dtype)
    characters, tokens = done.characters, done.tokens

    with path.open("r+b" if tokens else "wb") as file:

        def save() -> None:
            file.flush()
            os.fsync(file.fileno())
            progress = asdict(Progress(characters, tokens, digest.hexdigest()))
            temporary = path.with_suffix(".writing")
            with temporary.open("w", encoding="utf-8") as kept:
                json.dump(progress, kept)
                kept.flush()
                os.fsync(kept.fileno())
            temporary.replace(_progress_file(path))

        file.truncate(_HEADER_BYTES + tokens * dtype.itemsize)
        file.seek(0, os.SEEK_END)
        unsaved = 0
        for length, ids in tokenizer.encode_chunks(chunks(characters)):
            file.write(ids.data)
            digest.update(ids.data)
            characters += length
            tokens += len(ids)
            unsaved += ids.nbytes
            if unsaved >= save_bytes:
                save()
                unsaved = 0
        file.seek(0)
        file.write(_header(dtype, tokens))
        save()


def _so_far(path: Path, dtype: np.dtype) -> "tuple[Progress, hashlib._Hash]":
    """What an earlier attempt has saved, checked by its hash; nothing where it does not hold."""
    digest = hashlib.sha256()
    try:
        found = Progress(**json.loads(_progress_file(path).read_bytes()))
        left = found.tokens * dtype.itemsize
        with path.open("rb") as file:
            file.seek(_HEADER_BYTES)
            while left and (data := file.read(min(left, 1 << 20))):
                digest.update(data)
                left -= len(data)
    except (OSError, ValueError, TypeError):
        return Progress(), hashlib.sha256()
    if left or digest.hexdigest() != found.sha256:
        return Progress(), hashlib.sha256()
    return found, digest


def _progress_file(path: Path) -> Path:
    return path.with_suffix(".progress")


def _header(dtype: np.dtype, length: int) -> bytes:
    """The start of a .npy file, always as long, so that it can be written last.

    Source: numpy.lib.format, version 1.0.
    """
    start = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
    facts = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({length},), }}"
    return start + facts.encode().ljust(_HEADER_BYTES - 11) + b"\n"


def release(tokens: Tokens) -> None:
    """Unmap the pages that reading a memory-mapped array has made resident.

    The system maps 64 kB around each place read and keeps them mapped: a thousand batches of 32
    blocks would make a file of 2 GB resident. The pages stay in the system's file cache.
    """
    mapped = tokens.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
