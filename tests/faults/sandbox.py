"""Commands run on hostile input in a process of their own, watched: what they did, took and said.

One server process imports all of hornbook once and trains a small run; each trial is a fork of
it, with an audit hook armed, its memory and time limited, in a folder of its own. A fork costs
0.1 s where a fresh process would take 2 s to import torch. Works where os.fork does.
"""

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CONTROL = ["misbehave"]
SPARE_MIB = 512  # what a trial may take beside what the server has: less than any bomb below asks
CPU_SECONDS = 20
WALL_SECONDS = 40

# Whatever starts a program, makes code of data, or speaks to the network. Compiling alone is not
# among it: numpy reads a header with ast.literal_eval, and what is compiled cannot run unseen.
FORBIDDEN = (
    "code.__new__",
    "ctypes.dlopen",
    "exec",
    "ftplib.",
    "http.client.",
    "marshal.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.system",
    "pickle.",
    "pty.",
    "shelve",
    "socket.",
    "subprocess.",
    "urllib.",
)
HARMLESS = ("socket.gethostname",)
OUR_PROGRAMS = (shutil.which("git"),)  # asked, of hornbook's own folder, which version it is
# Whatever changes the disk, by where its paths stand among the event's arguments.
CHANGES = {
    "os.chmod": 1,
    "os.chown": 1,
    "os.link": 2,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.symlink": 2,
    "os.truncate": 1,
    "shutil.rmtree": 1,
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Watch:
    """An audit hook: what was done that hostile input must not bring about."""

    home: Path
    armed: bool = False
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note a forbidden event, or a change to the disk outside `home`."""
        if not self.armed:
            return
        self.armed = False  # what follows raises events of its own
        try:
            if event in HARMLESS or (event == "subprocess.Popen" and arguments[0] in OUR_PROGRAMS):
                return
            if event.startswith(FORBIDDEN) and not importing():
                self.seen.append(f"{event} {str(arguments)[:200]}")
            elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
                # With O_NOFOLLOW nothing outside can be reached by a link.
                refuses_links = bool(arguments[2] & getattr(os, "O_NOFOLLOW", 0))
                self.check("create" if refuses_links else event, arguments[:1])
            elif event in CHANGES:
                self.check(event, arguments[: CHANGES[event]])
        finally:
            self.armed = True

    def check(self, event: str, paths: tuple[Any, ...]) -> None:
        """Note a change to a path that is not below `home`."""
        for path in paths:
            if isinstance(path, int) or os.fspath(path) in (os.devnull, str(self.home)):
                continue
            place = Path(os.fsdecode(path)).absolute()
            # Opening follows a link; the others act on the link itself.
            real = place.resolve() if event == "open" else place.parent.resolve() / place.name
            if self.home not in real.parents:
                self.seen.append(f"{event} {path!r}")


def importing() -> bool:
    """Whether Python's own import of a module is under way: that runs code, and may."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. `status` is the exit status, negative for the signal it died of."""

    status: int
    stdout: str
    stderr: str
    events: list[str]
    grown_mib: float

    @property
    def lines(self) -> list[str]:
        """What was said on stderr, remarks and progress left out."""
        return [line for line in self.stderr.splitlines() if line.startswith("hornbook:")]

    def complaints(self, allowed: tuple[int, ...]) -> list[str]:
        """All that is wrong with how the trial ended; none when it ended well."""
        found = [f"did {event}" for event in self.events]
        if self.status not in allowed:
            found.append(f"ended with {self.status}, not one of {allowed}: {self.stderr[-500:]}")
        if "Traceback" in self.stderr or "a bug in hornbook" in self.stderr:
            found.append(f"was taken by surprise: {self.stderr[-2000:]}")
        # `verify` says what it found as its result.
        if self.status > 0 and len(self.lines) != 1 and not self.stdout:
            found.append(f"expected one line of complaint: {self.stderr[-500:]}")
        # A model's own writing is not ours to judge; what a refusal quotes is.
        said = (self.stderr + (self.stdout if self.status else "")).splitlines()
        if any(len(line) > 1000 or not line.isprintable() for line in said):
            found.append(f"said what a terminal should not be shown: {said!r:.500}")
        if self.grown_mib > SPARE_MIB:
            found.append(f"took {self.grown_mib} MiB")
        return found


class Sandbox:
    """The server, as a test holds it: `trial` runs one command in a fork of it."""

    def __init__(self, home: Path) -> None:
        from caches import cache_in  # the server has no path to it

        self.home = home
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("HORNBOOK_")
        }
        environment |= {
            "HORNBOOK_CACHE_DIR": cache_in(home),
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
            "TERM": "dumb",
            "TOKENIZERS_PARALLELISM": "false",  # its threads do not survive a fork
        }
        with (home / "server.log").open("w") as log:
            self.server = subprocess.Popen(
                [sys.executable, str(Path(__file__)), str(home)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=home,
                env=environment,
            )
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        assert self.server.stdout is not None
        self.server.stdout.close()
        self.server.wait(30)

    def trial(
        self, arguments: list[str], home: Path, environment: dict[str, str] | None = None
    ) -> Outcome:
        """Run `hornbook` with these arguments in the folder `home`."""
        request = {"arguments": arguments, "home": str(home), "environment": environment or {}}
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return Outcome(**self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        if not line:
            raise RuntimeError(f"the sandbox died:\n{(self.home / 'server.log').read_text()}")
        return json.loads(line)


def serve(home: Path) -> None:
    """Train the run that the trials spoil, then fork a trial for each request on stdin."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    watch = Watch(home)
    sys.addaudithook(watch)
    warm_up(home)
    print(json.dumps({}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(fork(request, watch)), file=answers, flush=True)


def warm_up(home: Path) -> None:
    """A trained run in ``home/run``, and every module imported that a command imports late."""
    import difflib
    import encodings.idna

    import charset_normalizer

    from hornbook.cli import run
    from hornbook.config import Config
    from hornbook.training.loop import train

    assert all((difflib, encodings.idna, charset_normalizer))
    text = home / "text.txt"
    text.write_text("to be or not to be, that is the question\n" * 30, encoding="utf-8")
    settings = {"block_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 8, "bpe_vocab_size": 260}
    settings |= {"steps": 5, "batch_size": 2, "eval_interval": 2, "checkpoint_interval": 2}
    settings |= {"sample_tokens": 4, "eval_positions": 64}
    words = {"compile": "off", "precision": "float32", "corpus": "text.txt"}
    for tokenizer, out in (("char", "run"), ("bpe", "run-bpe")):
        config = Config().override(tokenizer=tokenizer, **settings, **words)
        for metrics in train(config, out=out):
            if metrics.step == 4:
                break
    shutil.copytree("run", "ended")
    for arguments in (
        ["train", "--resume", "ended"],
        ["eval", "ended"],
        ["sample", "run-bpe", "--max-new-tokens", "4"],
        ["ladder", "text.txt", "--rungs", "bigram", "--steps", "2", "--out", "ladder"],
    ):
        if status := run(arguments):
            raise SystemExit(f"the sandbox's own {arguments} ended with {status}")


def fork(request: dict[str, Any], watch: Watch) -> dict[str, Any]:
    """Run one request in a child of this process; what became of it."""
    home = Path(request["home"])
    said = {name: home / f".{name}" for name in ("stdout", "stderr", "report")}
    child = os.fork()
    if child == 0:
        try:
            status = obey(request, watch, said)
        except BaseException:  # noqa: BLE001 - whatever it was, the child must end here
            traceback.print_exc()
            status = 70
        os._exit(status)
    started = time.monotonic()
    while True:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - started > WALL_SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    report = {"events": [], "grown_mib": 0.0}
    if said["report"].exists():
        report = json.loads(said["report"].read_bytes())
    text = {name: said[name].read_text(errors="replace") for name in ("stdout", "stderr")}
    for path in said.values():
        path.unlink(missing_ok=True)
    return {"status": os.waitstatus_to_exitcode(code), **text, **report}


def obey(request: dict[str, Any], watch: Watch, said: dict[str, Path]) -> int:
    """In the child: run the command with its limits set and the watch armed; its exit status."""
    from hornbook.cli import run

    home = Path(request["home"])
    os.chdir(home)
    os.environ |= {"HORNBOOK_CACHE_DIR": str(home / "cache"), **request["environment"]}
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(said[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    before = peak_mib()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE_MIB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    watch.home, watch.armed = home.resolve(), True
    try:
        status = misbehave(home) if request["arguments"] == CONTROL else run(request["arguments"])
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    watch.armed = False
    report = {"events": watch.seen, "grown_mib": round(peak_mib() - before, 1)}
    said["report"].write_text(json.dumps(report))
    return status


def misbehave(home: Path) -> int:
    """All that a trial must not do: what a watch that works will see."""
    pickle.loads(pickle.dumps(Path.home))
    os.system("true")
    (home.parent / "escaped").write_text("")
    return len(bytearray(200 << 20)) % 2


def peak_mib() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
