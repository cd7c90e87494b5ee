"""Where the C kernels come from: the wheel, the cache, or nowhere; and what a processor is."""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
from commands import environment
from small import TEXT

from hornbook.kernels import processor
from hornbook.kernels.library import DamagedKernelsWarning, Library, load_built
from hornbook.kernels.recipe import DECODER, MIXER, NGRAMS, SAMPLER, TARGETS, TRAINING, compiler

ROOT = Path(__file__).parents[2]
V4, V3, AARCH64, BASELINE = TARGETS


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel of this source installs, kernels built."""
    if compiler() is None:
        pytest.skip("there is no C compiler here")
    place = tmp_path_factory.mktemp("wheel")
    built = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    done = subprocess.run(built, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = place.glob("*.whl")
    assert "-py3-none-" in made.name
    assert not made.name.endswith("-any.whl")
    with zipfile.ZipFile(made) as archive:
        archive.extractall(place / "site")
    return place / "site"


def built(wheel: Path) -> Path:
    return wheel / "hornbook" / "kernels" / "built"


def in_wheel(
    wheel: Path, cwd: Path, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    """A command of the wheel's hornbook, on a machine without any compiler."""
    bare = {"PATH": "", "CXX": "", "CC": "", "PYTHONPATH": str(wheel), **more}
    bare["HORNBOOK_CACHE_DIR"] = str(cwd / "empty")  # of compiled C too
    return subprocess.run(
        [sys.executable, "-m", "hornbook", *arguments],
        cwd=cwd, env=environment(cwd) | bare, capture_output=True, text=True, check=False,
    )  # fmt: skip


SMALL = ("block_size=16", "n_embd=32", "n_head=2")
TINY = ("--model", "gpt", "--preset", "quick", *(f"--set={each}" for each in SMALL))


def test_a_wheel_trains_and_generates_in_c_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    if not processor.target().trains_faster:
        pytest.skip("the C kernels do not train on this processor unless they are asked to")
    (tmp_path / "hamlet.txt").write_text(TEXT, encoding="utf-8")
    train = ("train", "hamlet.txt", *TINY, "--steps", "4", "--out", "run", "--json")
    done = in_wheel(wheel, tmp_path, *train)
    assert done.returncode == 0, done.stderr
    assert 'compile = "c"' in (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")
    done = in_wheel(wheel, tmp_path, "sample", "run", "--weights", "int8", "--max-new-tokens", "9")
    assert done.returncode == 0, done.stderr  # PyTorch has no int8 weights
    assert not (tmp_path / "empty" / "native").exists()
    told = json.loads(in_wheel(wheel, tmp_path, "doctor", "--json").stdout)["chosen"]
    for choice in (told["compile"], told["writing"]):
        assert f"{processor.target().name}" in choice["why"]
        assert "built into the wheel by" in choice["why"]


@pytest.mark.parametrize("target", processor.runnable(), ids=lambda each: each.name)
def test_the_wheel_has_every_library_of_this_architecture(wheel: Path, target: object) -> None:
    for sources in (DECODER["float32"], SAMPLER, NGRAMS, MIXER, TRAINING["float32"]):
        found = load_built(built(wheel), sources, target)
        assert (found is None) == (target == BASELINE)
        if found:
            assert found.target == target.name
            assert isinstance(found, Library)


def test_a_damaged_library_is_a_line_and_the_slower_way(wheel: Path, tmp_path: Path) -> None:
    if processor.target() == BASELINE:
        pytest.skip("no wheel has kernels for this processor")
    with zipfile.ZipFile(next(wheel.parent.glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "site")
    library = built(tmp_path / "site") / processor.target().name / "decoder-float32.so"
    sound = library.read_bytes()
    manifest = built(tmp_path / "site") / "manifest.json"
    described = manifest.read_text(encoding="utf-8")
    named = json.loads(described)["libraries"][f"{processor.target().name}/decoder-float32.so"]

    def reported() -> str:
        with pytest.warns(DamagedKernelsWarning, match="reinstall hornbook") as told:
            assert (
                load_built(built(tmp_path / "site"), DECODER["float32"], processor.target()) is None
            )
        return str(told[0].message)

    library.write_bytes(sound[:-50] + bytes(50))
    assert "is not what was built" in reported()
    library.unlink()
    assert "cannot be read" in reported()
    library.write_bytes(sound)
    manifest.write_text(described.replace(named["fingerprint"], "0" * 32), encoding="utf-8")
    assert "another version" in reported()
    for nonsense in ("{", "[]", '{"libraries": []}', '{"libraries": {}, "compiler": 1}'):
        manifest.write_text(nonsense, encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamagedKernelsWarning)
            assert (
                load_built(built(tmp_path / "site"), DECODER["float32"], processor.target()) is None
            )

    # What the user sees: the same text, from PyTorch.
    manifest.write_text(described, encoding="utf-8")
    library.write_bytes(sound[:-50] + bytes(50))
    (tmp_path / "hamlet.txt").write_text(TEXT, encoding="utf-8")
    train = ("train", "hamlet.txt", *TINY, "--steps", "2", "--out", "run", "--set", "threads=1")
    assert in_wheel(wheel, tmp_path, *train).returncode == 0
    sample = ("sample", "run", "--temperature", "0", "--max-new-tokens", "30")
    damaged = in_wheel(tmp_path / "site", tmp_path, *sample)
    assert damaged.returncode == 0, damaged.stderr
    assert damaged.stdout == in_wheel(wheel, tmp_path, *sample).stdout
    assert " ".join(damaged.stderr.split()).count("is not what was built") == 1
    assert "Traceback" not in damaged.stderr


def test_an_editable_installation_has_no_built_kernels(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hook = module.KernelsHook(str(ROOT), {}, None, None, str(tmp_path), "wheel")
    data: dict[str, object] = {}
    hook.initialize("editable", data)
    assert not data


def test_without_a_compiler_the_wheel_is_for_any_machine(tmp_path: Path) -> None:
    built = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    bare = os.environ | {"PATH": "", "CC": ""}
    subprocess.run(built, cwd=ROOT, env=bare, check=True, capture_output=True)
    (made,) = tmp_path.glob("*.whl")
    assert made.name.endswith("-py3-none-any.whl")


X86 = "processor\t: 0\nflags\t\t: fpu avx2 fma bmi1 bmi2 f16c movbe abm\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "limit", "expected"),
    [
        ("x86_64", X86, "", V3),
        ("AMD64", X86, "", V3),
        ("x86_64", X86.replace("fma", ""), "", BASELINE),
        ("x86_64", "", "", BASELINE),
        ("x86_64", f"flags\t: {' '.join(sorted(V4.needs))}", "", V4),
        ("x86_64", f"flags\t: {' '.join(sorted(V4.needs))}", "avx2", V3),
        ("x86_64", f"flags\t: {' '.join(sorted(V4.needs))}", "default", BASELINE),
        ("aarch64", ARM, "", AARCH64),
        ("arm64", "", "", AARCH64),
        ("riscv64", "isa : rv64", "", BASELINE),
    ],
)
def test_a_processor_gets_the_kernels_that_it_can_run(
    machine: str, cpuinfo: str, limit: str, expected: object, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    found = processor.from_cpuinfo(tmp_path / "cpuinfo")
    monkeypatch.setattr(processor, "present", lambda: found)
    monkeypatch.setenv(processor.LIMIT, limit)
    assert processor.target() == expected
    assert processor.multiplies_bfloat16() == (cpuinfo == ARM)
    assert processor.from_cpuinfo(tmp_path / "absent") == frozenset()


def test_windows_and_macos_report_features_by_number_and_name() -> None:
    assert processor.from_windows(lambda _: 0) == frozenset()
    assert processor.from_windows(lambda number: number == 40) == V3.needs
    assert processor.from_windows(lambda number: 1) == V4.needs

    def sysctl(name: bytes, value: object, size: object, *_: object) -> int:
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = 1
        return 0 if name == b"hw.optional.arm.FEAT_BF16" else -1

    assert processor.from_sysctl(sysctl) == {"bf16"}
    assert processor.from_sysctl(lambda *_: -1) == frozenset()
