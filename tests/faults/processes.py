"""Real processes at 20 ms each: a server that has imported torch forks one for every trial.

Importing torch takes two seconds, and a harness that kills a thousand trainings cannot pay them a
thousand times. What is forked is a process like any other: signals, exits and file locks are real.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass
class Trial:
    """A process under way."""

    server: "Processes"
    pid: int
    log: Path

    def send(self, number: int) -> None:
        """Send a signal; one that has ended already is left in peace."""
        # Not yet waited for, so the number is still its own.
        os.kill(self.pid, number)

    @property
    def over(self) -> bool:
        """Whether the process has ended, which `wait` has yet to hear."""
        status = Path(f"/proc/{self.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "Z"

    def reaches(self, line: str) -> None:
        """Wait until the process has written a line."""
        while line not in self.log.with_suffix(".out").read_text().splitlines():
            time.sleep(0.001)

    def wait(self) -> "Outcome":
        """The end of the process."""
        status = self.server.ask({"wait": self.pid})["status"]
        return Outcome(
            status,
            self.log.with_suffix(".out").read_text(),
            self.log.with_suffix(".err").read_text(),
        )


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its exit status (negative: the signal), and what it wrote."""

    status: int
    stdout: str
    stderr: str

    @property
    def steps(self) -> list[int]:
        """The steps a `train` job reported."""
        return [int(line.split()[1]) for line in self.stdout.splitlines() if line[:5] == "step "]


class Processes:
    """The server's client; `prefix` is what the server is started under: ("unshare", "-m")."""

    def __init__(self, logs: Path, prefix: tuple[str, ...] = (), **environment: str) -> None:
        from caches import cache_in  # the server has no need of it

        self.logs = logs
        self.started = 0
        self.server = subprocess.Popen(
            [*prefix, sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "HORNBOOK_CACHE_DIR": cache_in(logs),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                **environment,
            },
        )
        self.ask({"ready": True})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.server.communicate()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One line there, one line back."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        line = self.server.stdout.readline()
        assert line, "the server of processes has ended"
        return dict(json.loads(line))

    def start(self, job: str, **arguments: object) -> Trial:
        """Begin a function of `jobs` in a process of its own."""
        self.started += 1
        log = self.logs / f"{self.started:06d}"
        for suffix in (".out", ".err"):
            log.with_suffix(suffix).touch()
        given = {name: str(v) if isinstance(v, Path) else v for name, v in arguments.items()}
        request = {"start": job, "arguments": given, "log": str(log)}
        return Trial(self, self.ask(request)["pid"], log)

    def run(self, job: str, **arguments: object) -> Outcome:
        """A function of `jobs` from beginning to end."""
        return self.start(job, **arguments).wait()


def serve() -> None:
    """Fork a process for every line that asks for one, until the input ends."""
    import jobs

    # What is imported or set up at first use would otherwise be so anew in every process.
    jobs.warm_up(Path(os.environ["HORNBOOK_CACHE_DIR"]).parent / "warm-up")
    for line in sys.stdin:
        request = json.loads(line)
        if "ready" in request:
            reply = {}
        elif "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            reply = {"status": os.waitstatus_to_exitcode(status)}
        elif pid := os.fork():
            reply = {"pid": pid}
        else:
            become(getattr(jobs, request["start"]), request["arguments"], Path(request["log"]))
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
    os._exit(0)  # torch takes a second to tidy up


def become(job: Any, arguments: dict[str, Any], log: Path) -> None:
    """Be the process of one job, and end with its status."""
    status = 70
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        for descriptor, suffix in ((1, ".out"), (2, ".err")):
            file = os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_APPEND)
            os.dup2(file, descriptor)
        # Not as the warming up left them, nor as a shell that runs things in the background does.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        status = job(**arguments) or 0
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    except BaseException:  # noqa: BLE001 - the process ends here in any case
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
