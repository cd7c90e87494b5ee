"""Token arrays on disk: written in pieces, resumable after a kill, checked before they are used."""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hornbook.language import msg
from hornbook.storage import cache
from hornbook.storage.disk import DISK
from hornbook.storage.files import open_regular, unmap_pages
from hornbook.text.tokenizer import Tokenizer

Tokens = NDArray[np.unsignedinteger]
Chunks = Callable[[int], Iterator[str]]

SAVE_BYTES = 1 << 26
# A batch releases the pages of larger arrays after it has read them.
MOST_MAPPED_BYTES = 1 << 28
_HEADER_BYTES = 128


@dataclass(frozen=True)
class Progress:
    """How much of an array is durably on the disk, and its hash."""

    characters: int = 0
    tokens: int = 0
    sha256: str = hashlib.sha256().hexdigest()


def open_arrays(folder: Path, names: Iterable[str], vocab_size: int) -> list[Tokens] | None:
    """The arrays of a cache folder, checked and memory-mapped; None if there are none."""
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
    """Encode texts into the arrays of a cache folder, all or none, and memory-map them.

    ``parts`` maps the name of an array to a function that gives its text in chunks, from a
    character offset on. Progress is saved every `save_bytes`; after a kill the next attempt
    continues from there.
    Raises: OSError if the cache cannot be written; UnknownCharacterError; DataError.
    """
    with cache.fill(folder) as partial:
        for name, chunks in parts.items():
            _write_array(partial / f"{name}.npy", chunks, tokenizer, save_bytes)
        for name in parts:
            (partial / f"{name}.progress").unlink()
    return [_mapped(folder / f"{name}.npy", tokenizer.vocab_size) for name in parts]


def _mapped(path: Path, vocab_size: int) -> Tokens:
    """Memory-map an array that hornbook wrote. Raises: OSError, ValueError for any other file."""
    dtype = np.min_scalar_type(vocab_size - 1)
    with open_regular(path) as file:
        length = (os.fstat(file.fileno()).st_size - _HEADER_BYTES) // dtype.itemsize
        # Compared, not parsed: np.load would also accept pickles, archives and nested headers.
        if length < 1 or file.read(_HEADER_BYTES) != _header(dtype, length):
            raise ValueError(
                msg("{path}: not an array of {length} tokens", path=path, length=length)
            )
    return np.memmap(path, dtype, "r", _HEADER_BYTES, (length,))


def _are_tokens(array: Tokens, vocab_size: int) -> bool:
    """Whether every id is in the vocabulary."""
    for start in range(0, len(array), SAVE_BYTES):
        if array[start : start + SAVE_BYTES].max() >= vocab_size:
            return False
        release(array)
    return True


def _write_array(path: Path, chunks: Chunks, tokenizer: Tokenizer, save_bytes: int) -> None:
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    done, digest = _saved_progress(path, dtype)
    characters, tokens = done.characters, done.tokens

    with path.open("r+b" if tokens else "wb") as file:

        def save() -> None:
            file.flush()
            os.fsync(file.fileno())
            progress = asdict(Progress(characters, tokens, digest.hexdigest()))
            temporary = path.with_suffix(".writing")
            DISK.write(temporary, json.dumps(progress).encode())
            DISK.sync(temporary)
            temporary.replace(path.with_suffix(".progress"))

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


def _saved_progress(path: Path, dtype: np.dtype) -> "tuple[Progress, hashlib._Hash]":
    """What an earlier attempt has saved; none of it if the hash does not match."""
    digest = hashlib.sha256()
    try:
        found = Progress(**json.loads(path.with_suffix(".progress").read_bytes()))
        remaining = found.tokens * dtype.itemsize
        with path.open("rb") as file:
            file.seek(_HEADER_BYTES)
            while remaining and (data := file.read(min(remaining, 1 << 20))):
                digest.update(data)
                remaining -= len(data)
    except (OSError, ValueError, TypeError):
        return Progress(), hashlib.sha256()
    if remaining or digest.hexdigest() != found.sha256:
        return Progress(), hashlib.sha256()
    return found, digest


def _header(dtype: np.dtype, length: int) -> bytes:
    """The header of a .npy file, of constant length, so that it can be written last.

    Source: numpy.lib.format, version 1.0.
    """
    prefix = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
    facts = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({length},), }}"
    return prefix + facts.encode().ljust(_HEADER_BYTES - 11) + b"\n"


def release(tokens: Tokens) -> None:
    """Unmap the pages of a memory-mapped array; they stay in the system's file cache.

    The system maps 64 kB around each offset that is read and keeps them mapped: without this,
    1,000 batches of 32 blocks would make a file of 2 GB resident.
    """
    mapped = tokens.base
    if isinstance(mapped, mmap.mmap):
        unmap_pages(mapped)
