"""Speed on a machine that does something else too, as a share of what it does idle.

Each figure is the median of whole processes, and the cases take turns. Programs that compute are
endless loops: one, or one pinned to each core. `--minutes` is measured by whole commands.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import hornbook as hb
from benchmarks.hashes import text
from benchmarks.table import ROOT, Row
from hornbook import cores
from hornbook.config import ModelConfig
from hornbook.text.tokenizer import CharTokenizer

WORK = ("training", "training by torch", "eval", "sample")
# The least share of the idle speed, or of the speed with one thread.
GOALS = {
    "idle": 0.97,
    "one other computing": 0.60,
    "one computing on each core": 0.50,
    "two at once": 0.45,
    "a quota of one core": 0.95,
}
AGAINST = {"idle": "libgomp's own waiting, idle", "a quota of one core": "one thread, idle"}
PLAIN = {"libgomp's own waiting, idle": {"GOMP_SPINCOUNT": "300000"}}
PLAIN["one thread, idle"] = {"OMP_NUM_THREADS": "1"}
LOOP = "import os, sys\nif sys.argv[1:]: os.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: 1"
MINUTES = 0.5


def measure(*, short: bool = False) -> list[Row]:
    """Every kind of work in every case, then how close `--minutes` comes."""
    rounds, seconds = (1, 0.3) if short else (5, 3.0)
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text.txt").write_text(text(), encoding="utf-8")
        for _ in range(rounds):
            for work in WORK[:1] if short else WORK:
                command = ["-m", "benchmarks.busy", work, str(seconds)]
                for case in (*PLAIN, *GOALS):
                    printed = run_in(case, command, Path(folder))
                    # Of two at once, the slower.
                    found.setdefault((work, case), []).append(min(map(float, printed)))
        rows = [row(found, *key) for key in found if key[1] in GOALS]
        if not short:
            rows += [minutes(case, Path(folder)) for case in GOALS]
    return rows


def row(found: Mapping[tuple[str, str], list[float]], work: str, case: str) -> Row:
    """A case compared with the same work alone on the machine, and with its goal."""
    against = AGAINST.get(case, "idle")
    ours, theirs = (statistics.median(found[work, name]) for name in (case, against))
    goal = GOALS[case] * theirs
    each = ", ".join(f"{speed:,.4g}" for speed in sorted(found[work, case]))
    note = f"runs: {each}" + (f"; {stand_in()}" if "quota" in case else "")
    return Row(f"{work}, {case}", "tokens/s", ours, theirs, against, goal, "the goal", note)


def minutes(case: str, folder: Path) -> Row:
    """The time of a command that was given half a minute; of two at once, the one further off."""
    out = tempfile.mkdtemp(dir=folder)
    arguments = ["-m", "benchmarks.busy", "minutes", out]
    printed = [json.loads(each) for each in run_in(case, arguments, folder)]
    worst = max(printed, key=lambda each: abs(each["seconds"] - 60 * MINUTES))
    note = f"{worst['steps']} of {worst['planned']} planned steps: {worst['why']}"
    return Row(
        f"--minutes {MINUTES}, {case}", "s", worst["seconds"], 60 * MINUTES, "asked", note=note
    )


def run_in(case: str, command: list[str], folder: Path) -> list[str]:
    """What one process prints, or two at once, while others compute."""
    environment = {key: value for key, value in os.environ.items() if key not in cores.WAITING}
    environment.pop("OMP_NUM_THREADS", None)
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"} | PLAIN.get(case, {})
    with ExitStack() as others:
        prefix = others.enter_context(one_core()) if "quota" in case else []
        for number in hogs(case):
            others.enter_context(computing(number))
        started = [
            subprocess.Popen(
                [*prefix, sys.executable, *command],
                cwd=folder, env=environment, stdout=subprocess.PIPE, text=True,
            )
            for _ in range(2 if case == "two at once" else 1)
        ]  # fmt: skip
        printed = [process.communicate()[0].strip() for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{' '.join(command)} failed, {case}")
    return printed


def hogs(case: str) -> list[str]:
    """The cores of the programs that compute; an empty name for any core."""
    if case == "one computing on each core":
        affinity = getattr(os, "sched_getaffinity", None)
        return [str(core) for core in affinity(0)] if affinity else [""] * cores.affinity_count()
    return [""] if case == "one other computing" else []


@contextmanager
def computing(core: str) -> Iterator[None]:
    """A program that computes, on one core where a core is named."""
    process = subprocess.Popen([sys.executable, "-c", LOOP, *([core] if core else [])])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def one_core() -> Iterator[list[str]]:
    """What runs a command under a CPU quota of one core, or else pinned to one."""
    folder = quota_folder()
    if folder is None:
        pin = "import os, sys; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
        yield [sys.executable, "-c", f"{pin}; os.execv(sys.argv[1], sys.argv[1:])"]
        return
    try:
        yield ["sh", "-c", f'echo $$ > "{folder}/cgroup.procs" && exec "$0" "$@"']
    finally:
        folder.rmdir()


def quota_folder() -> Path | None:
    """A new cgroup with a quota of one core, inside this process's own; None where none can be."""
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    for parent in cores.cgroup_folders(lines, Path("/sys/fs/cgroup")):
        folder = parent / f"hornbook-bench-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        with suppress(OSError):
            if (folder / "cpu.max").exists():
                (folder / "cpu.max").write_text("100000 100000")
                return folder
            if (folder / "cpu.cfs_quota_us").exists():
                (folder / "cpu.cfs_quota_us").write_text("100000")
                return folder
        folder.rmdir()
    return None


def stand_in() -> str:
    """How the quota was set."""
    folder = quota_folder()
    if folder is None:
        return "pinned to one core, for want of a cgroup that can be written"
    folder.rmdir()
    return "by a cgroup"


# ---- in a process of its own ----


def speed(step: Callable[[], int], seconds: float) -> float:
    """Tokens a second of repeated steps, after a warm-up of a third of the time."""
    for limit in (seconds / 3, seconds):
        done, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < limit or not done:
            done += step()
    return done / passed


def training(preset: str, seconds: float) -> float:
    """Tokens a second of training."""
    never = {"steps": 10**6, "eval_interval": 10**6, "checkpoint_interval": 10**6}
    config = hb.preset(preset).override(corpus="text.txt", **never)
    with tempfile.TemporaryDirectory() as out:
        steps = hb.train(config, out=Path(out) / "run")

        def step() -> int:
            next(steps)
            return config.tokens_per_step

        found = speed(step, seconds)
        steps.close()
    return found


def evaluating(seconds: float) -> float:
    """Tokens a second of the exact loss, of the default's network."""
    tokenizer = CharTokenizer.from_text(text())
    model = hb.GPT(ModelConfig(), tokenizer.vocab_size).eval()
    import numpy as np

    from hornbook.eval.loss import estimate
    from hornbook.kernels.runtime import share_cores

    share_cores()
    tokens = np.array(tokenizer.encode(text()[:20_000]), dtype=np.uint16)

    def step() -> int:
        estimate(model, tokens, block_size=model.context_size, max_positions=8192)
        return 8192

    return speed(step, seconds)


def sampling(seconds: float) -> float:
    """Tokens a second of one text, of a model large enough for two threads."""
    from benchmarks.peers.nanogpt import GPU_RECIPE
    from benchmarks.sample import CHARACTERS, shape_of
    from hornbook.infer.batch import Batch
    from hornbook.infer.native_decoder import NativeDecoder
    from hornbook.models.schema import Schema

    shape = shape_of(GPU_RECIPE)
    weights = {k: t.numpy() for k, t in hb.GPT(shape, len(CHARACTERS)).state_dict().items()}
    schema = Schema.of(shape, len(CHARACTERS))
    decoder = NativeDecoder(schema, weights, context_size=shape.context_size)

    def step() -> int:
        batch = Batch(decoder)
        batch.add([0] * 16, seed=0)
        for _ in range(32):
            batch.step()
        return 32

    return speed(step, seconds)


def timed_minutes(out: str) -> str:
    """A whole `hornbook train --minutes`: its seconds, and its steps."""
    started = time.perf_counter()
    asked = ["shakespeare", "--minutes", str(MINUTES), "--out", f"{out}/{os.getpid()}", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "hornbook", "train", *asked],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    seconds, why = time.perf_counter() - started, found["steps_why"]
    return json.dumps(
        {"seconds": seconds, "steps": found["steps"], "planned": found["planned_steps"], "why": why}
    )


def main(work: str, argument: str) -> None:
    """Do one kind of work, and print its figure."""
    if work == "minutes":
        print(timed_minutes(argument))
        return
    seconds = float(argument)
    by: dict[str, Callable[[], float]] = {
        "training": lambda: training("quick", seconds),
        "training by torch": lambda: training("layernorm", seconds),
        "eval": lambda: evaluating(seconds),
        "sample": lambda: sampling(seconds),
    }
    print(by[work]())


if __name__ == "__main__":
    main(*sys.argv[1:])
