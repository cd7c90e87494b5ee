"""What this machine offers, and the choices that follow: device, precision, compile, threads."""

import os
import platform
import shutil
import subprocess
import warnings
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from hornbook import __version__, cores
from hornbook import kernels as native
from hornbook.config import Config
from hornbook.errors import ConfigError, HornbookWarning, reason
from hornbook.kernels import processor
from hornbook.kernels.library import shared_library
from hornbook.kernels.recipe import DECODER, TRAINING
from hornbook.kernels.runtime import default_threads
from hornbook.kernels.training import TrainingKernels, misfit, training_kernels
from hornbook.language import msg
from hornbook.models.gpt import sizes_of
from hornbook.models.schema import Schema
from hornbook.parallel import Job
from hornbook.plan.memory import Sharing

# Compiling the default model's block takes 15-23 s on two cores and saves 40% of each step after
# (14,100 tokens/s eager, 25,400 compiled): won back in about 200 steps of 4,096 tokens.
STEPS_WORTH_COMPILING = 250

# The widest activation that one thread computes as fast as two, by torch's operations: `layernorm`
# of the lecture, with 32,768 numbers, took 27,000 tokens/s with one, and 14,000 to 28,000 with two;
# beside another program 26,000 and 13,000. torch shares no elementwise operation on fewer.
SHARED_ACTIVATIONS = 32_768


class ThreadsWarning(HornbookWarning):
    """More threads were requested than this process has cores."""

    label = "warning"


@dataclass(frozen=True)
class Choice:
    """A decision and its reason."""

    value: str
    why: str


def choose_device(wanted: str = "auto") -> Choice:
    """cuda, mps or cpu: the first that is there, unless `wanted` names one.

    Raises: ConfigError when the wanted device is absent.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(wanted, True):
        raise ConfigError(
            msg(
                "device = {wanted!r}: not present here; use device = 'cpu' or 'auto'", wanted=wanted
            )
        )
    if wanted != "auto":
        return Choice(wanted, msg("requested"))
    found = next((name for name, there in present.items() if there), None)
    return (
        Choice(found, msg("present"))
        if found
        else Choice("cpu", msg("no GPU that PyTorch can use"))
    )


def choose_precision(device: str, wanted: str = "auto") -> Choice:
    """bfloat16 where the device multiplies it in hardware (and oneDNN may), else float32."""
    if wanted != "auto":
        return Choice(wanted, msg("requested"))
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bfloat16", msg("this GPU multiplies bfloat16 in hardware"))
        return Choice("float32", msg("this GPU has no bfloat16 units"))
    if device == "mps":
        return Choice("float32", msg("the safe choice on Apple GPUs"))
    may = onednn_may_use("BF16", "AMX")
    if torch.cpu._is_amx_tile_supported() and may:
        return Choice("bfloat16", msg("AMX tiles: about six times float32's speed"))
    if torch.cpu._is_avx512_bf16_supported() and may:
        return Choice("bfloat16", msg("AVX-512 bfloat16: about twice float32's speed"))
    return Choice("float32", msg("this CPU has no bfloat16 units"))


def multiplies_in_tiles(precision: str) -> bool:
    """Whether torch multiplies in this precision by AMX, which hornbook's C kernels do not use."""
    there = torch.cpu._is_amx_tile_supported() and onednn_may_use("AMX")
    return precision == "bfloat16" and there


def onednn_may_use(*parts: str) -> bool:
    """Whether ONEDNN_MAX_CPU_ISA, which caps what oneDNN uses, allows one of these."""
    capped = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return capped in ("", "ALL", "DEFAULT") or any(part in capped for part in parts)


def compiler() -> str | None:
    """The C++ compiler torch.compile would call on a CPU, or None."""
    wanted = os.environ.get("CXX", "")
    return next(filter(None, map(shutil.which, filter(None, [wanted, "g++", "clang++"]))), None)


def choose_compile(config: Config, device: str, precision: str) -> Choice:
    """What runs a gpt's blocks: "c" for C kernels, "on" for torch.compile, "off" for PyTorch.

    Raises: ConfigError when requested where it cannot work.
    """
    wanted, steps = config.train.compile, config.train.steps
    spread = obstacle_of_spreading(config)
    if spread and wanted == "auto":
        return Choice("off", spread)
    no_c = obstacle_to_c(config, device, precision) if wanted in ("auto", "c") else ""
    no_compiling = obstacle_to_compiling(device)
    if spread:
        no_c = no_compiling = spread
    if obstacle := {"c": no_c, "on": no_compiling}.get(wanted):
        raise ConfigError(msg("compile = {wanted!r}: {obstacle}", wanted=wanted, obstacle=obstacle))
    if wanted != "auto":
        return Choice(wanted, msg("requested"))
    if not no_c and (no_compiling or not multiplies_in_tiles(precision)):
        return Choice(
            "c",
            msg("C kernels: 1.5 to 2.5 times PyTorch's speed; {origin}", origin=origin(precision)),
        )
    if device == "mps":
        return Choice("off", msg("torch.compile is not reliable on Apple GPUs yet"))
    if no_compiling:
        if not processor.target().trains_faster:
            return Choice("off", no_c)
        return Choice(
            "off",
            msg("{why}; training takes about 2 times as long without them", why=no_c),
        )
    if steps < STEPS_WORTH_COMPILING:
        return Choice(
            "off", msg("{steps} steps end before compiling (about 20 s) pays", steps=steps)
        )
    return Choice("on", msg("two thirds of a step's time, after about 20 s"))


def obstacle_to_c(config: Config, device: str, precision: str) -> str:
    """Why the C kernels cannot train this model here; empty where they can. May compile them."""
    if device != "cpu":
        return msg("the C kernels are for CPUs, and this is {device}", device=device)
    if config.train.compile != "c" and not (kind := processor.target()).trains_faster:
        return msg(
            "the C kernels were not measured to train faster on {kind} processors", kind=kind.name
        )
    if not config.model.spec.c_kernels:
        return msg(
            "the C kernels run the blocks of a gpt, and model = {model!r}", model=config.model.model
        )
    if config.model.lora_rank:
        return msg("the C kernels train all weights, and LoRA its factors alone")
    if obstacle := misfit(sizes_of(Schema.of(config.model, vocab_size=1))):
        return obstacle
    try:
        training_kernels(precision)
    except native.NativeUnavailableError as error:
        return reason(error)
    return ""


def obstacle_of_spreading(config: Config) -> str:
    """Why weights that are spread over several processes leave blocks to PyTorch; empty for others.

    Nothing else was tried.
    """
    if config.train.parallel != "fsdp" or Job.of_environment().world == 1:
        return ""
    return msg("with parallel = 'fsdp' PyTorch runs the blocks, uncompiled")


def obstacle_to_compiling(device: str) -> str:
    """Why torch.compile cannot work here; empty where it can."""
    if device != "cpu":
        return ""
    if platform.system() != "Linux":
        return msg(
            "on a CPU hornbook compiles on Linux only, and this is {system}",
            system=platform.system(),
        )
    if compiler():
        return ""
    return msg("torch.compile needs a C++ compiler and found none; install g++")


def choose_decoder() -> Choice:
    """Whether C kernels or PyTorch generate from a GPT; compiles the kernels on first use.

    On one core, with 0.8 million parameters PyTorch generated 356 tokens/s and C kernels 10,800;
    with 10.65 million, 108 and 640 (while other programs ran).
    """
    try:
        native.decoder_library()
    except native.NativeUnavailableError as error:
        return Choice("torch", msg("{error}; PyTorch takes 6 to 30 times as long", error=error))
    library = shared_library(DECODER["float32"])
    return Choice(
        "C", msg("{target} kernels, {origin}", target=library.target, origin=library.origin)
    )


def origin(precision: str) -> str:
    """Which C kernels train, and where they came from."""
    library = shared_library(TRAINING[precision])
    return msg("{target}, {origin}", target=library.target, origin=library.origin)


@dataclass(frozen=True)
class Machine:
    """The choices that a run is made with."""

    device: Choice
    precision: Choice
    compile: Choice
    threads: int
    # Among how many processes each batch is shared out. All else is this process's own.
    ranks: int = 1
    parallel: Choice = Choice("ddp", msg("each process has all weights"))
    async_save: Choice = Choice("off", msg("small checkpoints take milliseconds"))

    @property
    def sharing(self) -> Sharing:
        """Who trains, and who shares this machine's memory."""
        return Sharing.of(self.ranks, self.device.value)

    @property
    def compute_dtype(self) -> torch.dtype:
        """The activations' precision as torch names it."""
        return torch.bfloat16 if self.precision.value == "bfloat16" else torch.float32

    @property
    def kernels(self) -> TrainingKernels | None:
        """The C kernels that run blocks, where they are chosen."""
        return training_kernels(self.precision.value) if self.compile.value == "c" else None

    def resolve(self, config: Config) -> Config:
        """The settings with these choices in place of every "auto"."""
        return config.override(
            device=self.device.value,
            precision=self.precision.value,
            compile=self.compile.value,
            threads=self.threads,
            parallel=self.parallel.value,
            async_save=self.async_save.value,
        )


def choose(config: Config) -> Machine:
    """Choose for this machine what every "auto" stands for.

    Raises: ConfigError when what was requested is not available.
    """
    device = choose_device(config.train.device)
    precision = choose_precision(device.value, config.train.precision)
    compile_ = choose_compile(config, device.value, precision.value)
    threads, may = config.train.threads, cores.usable(requested="")
    if threads > may.count and device.value == "cpu":
        warning = msg(
            "threads = {threads}, but this process may use {count} ({why}): it is slower than "
            "threads = {count}, and gives the bits of {threads} threads",
            threads=threads,
            count=may.count,
            why=may.why,
        )
        warnings.warn(warning, ThreadsWarning, stacklevel=2)
    wanted = config.train.parallel
    ranks = Job.of_environment().world if wanted != "none" else 1
    parallel = Machine.parallel if wanted == "auto" else Choice(wanted, msg("requested"))
    saving = config.train.async_save
    async_save = Machine.async_save if saving == "auto" else Choice(saving, msg("requested"))
    if not threads:
        alone = is_small(config, compile_.value) and not cores.requested_threads()
        threads = 1 if alone else default_threads()
    return Machine(device, precision, compile_, threads, ranks, parallel, async_save)


def is_small(config: Config, compile_: str) -> bool:
    """Whether a second thread would be of no use: torch's operations are too short to be shared."""
    widest = config.train.batch_size * config.model.block_size * 4 * config.model.n_embd
    return compile_ != "c" and widest <= SHARED_ACTIVATIONS


def choose_again(config: Config) -> Machine:
    """`choose` for a run begun elsewhere; chooses anew when its `compile` is not available here.

    Raises: ConfigError when its device is not available.
    """
    with suppress(ConfigError):
        return choose(config)
    return choose(config.override(compile="auto"))


def choose_to_learn(config: Config, device: str) -> Machine:
    """How a trained model takes a few more steps on a device: with C kernels, or uncompiled."""
    elsewhere = {} if device == config.train.device else {"precision": "auto"}
    config = config.override(device=device, threads=0, **elsewhere)
    if config.train.compile == "c":
        with suppress(ConfigError):
            return choose(config)
    return choose(config.override(compile="off"))


def describe() -> dict[str, str]:
    """The machine and the versions that a run depends on, for `environment.json`."""
    libraries = ("torch", "numpy", "safetensors", "tokenizers")
    return {
        "hornbook": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": str(os.cpu_count()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def source_commit() -> str:
    """The commit that hornbook runs from, with a + where files differ; "none" outside a clone."""
    git, here = shutil.which("git"), Path(__file__)

    def ask(*arguments: str) -> str:
        if git is None:
            return ""
        # A package installed inside somebody's repository is not of that repository.
        done = subprocess.run(  # noqa: S603 - nothing in it comes from outside
            [git, "-C", str(here.parent), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    tracked = ask("ls-files", "--error-unmatch", here.name)
    return (ask("describe", "--always", "--dirty=+", "--abbrev=12") if tracked else "") or "none"


def processor_name() -> str:
    """The processor's own name, or its architecture where the system does not report one."""
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
