"""How the C is compiled: its files, the kinds of processor, the compiler's flags.

The build hook of a wheel (hatch_build.py) loads this file alone, where hornbook's dependencies are
not installed. So it imports nothing of hornbook.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# No instruction that the target lacks, and strict IEEE arithmetic but for fused multiply-adds.
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-shared", "-fPIC", "-pthread")
# How many numbers a word of 32 bits holds.
PACKED = {"float32": 1, "bfloat16": 2}


@dataclass(frozen=True)
class Sources:
    """C files that make a library, the headers among them."""

    name: str
    files: tuple[str, ...]
    precision: str = "float32"

    def contents(self) -> dict[str, bytes]:
        """Each file's bytes."""
        return {name: (HERE / name).read_bytes() for name in self.files}


_DECODER = ("decoder.c", "numbers.h", "vectors.h")
DECODER = {each: Sources(f"decoder-{each}", _DECODER, each) for each in PACKED}
NGRAMS = Sources("ngrams", ("ngrams.c", "threads.h"))
MIXER = Sources("mixer", ("mixer.c", "vectors.h"))
SAMPLER = Sources("sampler", ("sampler.c", "vectors.h"))
_TRAINING = ("block.c", "muon.c", "numbers.h", "products.h", "threads.h", "vectors.h")
TRAINING = {each: Sources(f"training-{each}", _TRAINING, each) for each in PACKED}
LIBRARIES = (*DECODER.values(), SAMPLER, NGRAMS, MIXER, *TRAINING.values())


@dataclass(frozen=True)
class Target:
    """A kind of processor that the C is compiled for.

    `needs` are the features it must have, as Linux names them. `bfloat16` is the feature with which
    it multiplies bfloat16, and the flags for it; empty where none of this kind does.
    `trains_faster` is whether a training step was measured to take less time than PyTorch's.
    """

    name: str
    machine: str
    flags: tuple[str, ...]
    needs: frozenset[str]
    bfloat16: tuple[str, ...] = ()
    trains_faster: bool = False

    def flags_for(self, sources: Sources) -> list[str]:
        """The compiler's flags for a library."""
        more = self.bfloat16[1:] if sources.precision == "bfloat16" else ()
        static = ["-static"] if os.name == "nt" else []  # MinGW's threads are a library of its own
        return [*FLAGS, *static, *self.flags, *more, f"-DPACK={PACKED[sources.precision]}"]


# The features of https://gitlab.com/x86-psABIs/x86-64-ABI, microarchitecture levels.
_V3 = frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# The best first. The last one fits every processor, and no wheel has it.
TARGETS = (
    Target(
        "x86-64-v4", "x86_64", ("-march=x86-64-v4",), _V4, ("avx512_bf16", "-mavx512bf16"),
        trains_faster=True,
    ),
    Target("x86-64-v3", "x86_64", ("-march=x86-64-v3",), _V3, trains_faster=True),
    Target("aarch64", "aarch64", (), frozenset(), ("bf16", "-march=armv8.2-a+bf16")),
    Target("baseline", "", (), frozenset()),
)  # fmt: skip


def compiler() -> str | None:
    """The C compiler: $CC, or the first of cc, gcc and clang on the path; None without one."""
    wanted = os.environ.get("CC")
    names = [wanted] if wanted is not None else ["cc", "gcc", "clang"]
    return next(filter(None, map(shutil.which, names)), None)


def command(found: str, sources: Sources, target: Target, output: str) -> list[str]:
    """The compiler's command line, in the folder of the sources."""
    compiled = [name for name in sources.files if name.endswith(".c")]
    return [found, *target.flags_for(sources), *compiled, "-o", output, "-lm"]


def fingerprint(sources: Sources, target: Target, *more: str) -> str:
    """A name for a library of these sources and flags."""
    facts = "\n".join([*target.flags_for(sources), *more])
    made_of = b"\0".join([*sources.contents().values(), facts.encode()])
    return hashlib.sha256(made_of).hexdigest()[:32]
