"""Several processes that train one model: each has a share of a batch, and all weights or a part.

Why not torch's DistributedDataParallel: blocks are a pure function of seed and step, so a rank
computes its share with plain autograd, whoever runs the blocks (PyTorch, compiled, C kernels) and
however often gradients accumulate, and all gradients are then added in one collective over one
buffer whose layout never changes. Gloo reduces a buffer in a ring, each part in one fixed order of
ranks, so that the same ranks give the same bits, after a restart too; DDP's buckets are laid out
anew after its first step, and a resumed run differs from one that went on. DDP would overlap
communication with the backward pass, which pays between GPUs; that is not done.
"""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from itertools import accumulate
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from hornbook.config import Config
from hornbook.errors import ConfigError, RankError, reason
from hornbook.language import msg
from hornbook.parallel.job import Job
from hornbook.parallel.notes import Notes
from hornbook.parallel.ranks import Ranks
from hornbook.parallel.rows import to_owners, to_rows

# Meeting, and what each rank does before it can train.
START_SECONDS = 1800
# Ranks that hang are told by their silence, when all others have noticed.
NOTICING_SECONDS = 2
# An order fits into one message of so many bytes; a longer one is followed by the rest.
ORDER_BYTES = 256
# Tensors begin at multiples of 64 bytes in the common buffer, as torch's own do.
ALIGNMENT = 16
STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
LOOPBACK = {"linux": "lo", "darwin": "lo0"}


class Group(Ranks):
    """The ranks of a torchrun command. Every wait has a limit, and says what it waited for."""

    def __init__(self, job: Job, store: dist.Store, timeout_seconds: int) -> None:
        super().__init__(job)
        self.rank, self.world = job.rank, job.world
        self.store, self.timeout_seconds = store, timeout_seconds
        self.notes = Notes(store, job.rank, job.world)
        self.limit_seconds = START_SECONDS
        # A group has one time limit; this one's is for the time after the start.
        self.steps_group = dist.new_group(timeout=timedelta(seconds=timeout_seconds))
        self.group: Any = None  # torch's first group
        self.noted = 0
        self.ended = self.lost = False
        self.buffer = torch.empty(0)
        self.views: list[Tensor] = []
        self.norm = torch.zeros(())  # of the last step's gradients, where weights are sharded
        self.handlers: dict[int, Any] = {}

    @classmethod
    @contextmanager
    def joined(cls, job: Job, config: Config) -> Iterator[Self]:
        """The group, until the body ends.

        Raises: RankError when the others do not come.
        """
        backend = choose_backend(job, config.train.device)
        if job.on_one_machine and sys.platform in LOOPBACK:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
        limit = timedelta(seconds=START_SECONDS)
        try:
            store, _, _ = next(iter(dist.rendezvous("env://", timeout=limit)))
            if job.on_one_machine:
                # torchrun keeps its store over restarts, and with it the addresses of the dead.
                store = dist.PrefixStore(f"hornbook/{job.restarts}", store)
            dist.init_process_group(
                backend, store=store, rank=job.rank, world_size=job.world, timeout=limit
            )
            group = cls(job, store, config.train.rank_timeout_seconds)
        except RuntimeError as error:
            raise RankError(
                msg(
                    "rank {rank}: the {world} ranks did not meet: {why}",
                    rank=job.rank,
                    world=job.world,
                    why=reason(error),
                )
            ) from None
        try:
            yield group
        except BaseException:
            group.end(1)
            raise
        else:
            group.end(0)
        finally:
            with suppress(RuntimeError):
                group.notes.stop()
            leave()  # left to the interpreter's end, a group can hang or abort there

    def end(self, status: int) -> None:
        """Rank 0: send the others home, unless they went, or cannot be reached."""
        if self.rank == 0 and not self.ended and not self.lost:
            with suppress(RankError):
                self.tell("end", status=status)

    @contextmanager
    def passing(self) -> Iterator[None]:
        with self.waiting_for(msg("the weights of a pass")) if self.sharded else nullcontext():
            yield

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """Inside, an error of torch's is that of a lost rank. Raises: RankError."""
        began = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            self.lost = True
            waited = time.monotonic() - began
            # Closed, the connections tell the ranks that wait for this one.
            self.group = self.steps_group = None
            leave()
            raise RankError(
                msg(
                    "rank {rank} lost {missing} while it waited for {what} ({waited:.0f} of at "
                    "most {limit_seconds} s): {why}",
                    rank=self.rank,
                    missing=self.missing(),
                    what=what,
                    waited=waited,
                    limit_seconds=self.limit_seconds,
                    why=cause_of(error),
                )
            ) from None

    def missing(self) -> str:
        """Which ranks do not notice that one was lost: the dead, and those that hang."""
        absent = set(range(self.world)) - {self.rank}
        with suppress(RuntimeError):
            self.store.set_timeout(timedelta(seconds=2))
            self.store.set(f"noticed/{self.rank}", "1")
            until = time.monotonic() + NOTICING_SECONDS
            while absent and time.monotonic() < until:
                absent -= {each for each in absent if self.store.check([f"noticed/{each}"])}
                time.sleep(0.05)
            ranks = ", ".join(map(str, sorted(absent)))
            if not absent:
                return msg("a connection")
            several = len(absent) > 1
            return (
                msg("ranks {ranks}", ranks=ranks) if several else msg("rank {ranks}", ranks=ranks)
            )
        return msg("the others and their store of addresses")

    def tell(self, order: str, **facts: Any) -> None:
        if self.rank or self.ended:
            return
        with self.waiting_for(msg("the store of notes")):
            self.notes.stop()
        self.ended = order == "end"
        text = json.dumps({"order": order, **facts}).encode()
        head = torch.zeros(ORDER_BYTES, dtype=torch.uint8)
        size = torch.tensor([len(text)], dtype=torch.int64).view(torch.uint8)
        words = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        first = words[: ORDER_BYTES - 8]
        head[:8], head[8 : 8 + len(first)] = size, first
        with self.waiting_for(msg("the others to take the order {order!r}", order=order)):
            dist.broadcast(head, 0, group=self.group)
            if len(text) > ORDER_BYTES - 8:
                dist.broadcast(words[ORDER_BYTES - 8 :].clone(), 0, group=self.group)

    def rest(self) -> None:
        if self.rank == 0:
            self.tell("rest")
            self.notes.beat(self.limit_seconds)

    def told(self) -> dict[str, Any]:
        head = torch.zeros(ORDER_BYTES, dtype=torch.uint8)
        with self.waiting_for(msg("the next order of rank 0")):
            dist.broadcast(head, 0, group=self.group)
            size = int(head[:8].view(torch.int64))
            words = head[8 : 8 + size]
            if size > ORDER_BYTES - 8:
                rest = torch.zeros(size - len(words), dtype=torch.uint8)
                dist.broadcast(rest, 0, group=self.group)
                words = torch.cat([words, rest])
        found: dict[str, Any] = json.loads(words.numpy().tobytes())
        if found["order"] == "rest":
            with self.waiting_for(msg("a sign of life of rank 0, which works alone")):
                self.notes.await_end(self.limit_seconds, lambda: self.noted)
            return self.told()
        self.ended = found["order"] == "end"
        return found

    def collect(self, about: str) -> list[dict[str, Any]]:
        """Rank 0: the last note of each rank. Raises: RankError."""
        return self.notes.collect(about, self.limit_seconds, lambda: self.lost)

    def meet(self, what: str) -> None:
        """Wait until all ranks are here. Raises: RankError."""
        with self.waiting_for(what):
            dist.all_reduce(torch.zeros(1), group=self.group)

    def agree(self, about: str, own: Mapping[str, str]) -> None:
        with self.waiting_for(msg("the {about} of all ranks", about=about)):
            self.store.set(f"{about}/{self.rank}", json.dumps(own))
            found = [json.loads(self.store.get(f"{about}/{each}")) for each in range(self.world)]
        for rank, theirs in enumerate(found):
            unlike = [name for name in own if theirs.get(name) != found[0].get(name)]
            if not unlike and theirs.keys() == found[0].keys():
                continue
            if self.rank:  # rank 0 says it for all
                sys.exit(1)
            if "error" in theirs:
                raise RankError(msg("rank {rank}: {error}", rank=rank, error=theirs["error"]))
            name = unlike[0] if unlike else about
            raise RankError(
                msg(
                    "rank {rank} has other {about} than rank 0: {name} is {theirs}, and {own} "
                    "on rank 0; start all ranks with one command, text and version",
                    rank=rank,
                    about=about,
                    name=name,
                    theirs=theirs.get(name),
                    own=own.get(name),
                )
            )

    def share(self, tensors: Sequence[Tensor]) -> None:
        with self.waiting_for(msg("rank 0's weights")):
            for each in tensors:
                whole = each.detach().contiguous()
                dist.broadcast(whole, 0, group=self.group)
                if self.rank and whole.data_ptr() != each.data_ptr():
                    each.detach().copy_(whole)

    @torch.no_grad()
    def average(self, parameters: Sequence[Tensor], losses: Tensor) -> Tensor:
        if self.sharded:
            return self.tally(parameters, losses)
        trained = [each for each in parameters if each.requires_grad]
        # Behind the gradients each rank fills a row of its own: its losses, its gradients' sum,
        # which is not finite where one of them is not, and the signal it was sent.
        columns = len(losses) + 2
        if not self.views:
            self.lay_out(trained, self.world * columns)
        gradients = self.buffer[: self.buffer.numel() - self.world * columns]
        rows = self.buffer[len(gradients) :].view(self.world, columns).zero_()
        for parameter, view in zip(trained, self.views, strict=True):
            view.zero_() if parameter.grad is None else view.copy_(parameter.grad)
        rows[self.rank, :-2] = losses
        rows[self.rank, -2] = gradients.sum()
        rows[self.rank, -1] = self.noted
        with self.waiting_for(msg("the gradients of a step")):
            dist.all_reduce(self.buffer, group=self.group)
        for parameter, view in zip(trained, self.views, strict=True):
            parameter.grad = view
        self.broken = (~rows[:, -2].isfinite()).nonzero().flatten().tolist()
        self.noted = self.noted or int(rows[:, -1].max())
        return rows[:, :-2].flatten()

    def tally(self, parameters: Sequence[Tensor], losses: Tensor) -> Tensor:
        """`average`, where the backward pass has added up the gradients, of which each has rows."""
        rows = losses.new_zeros(self.world, len(losses) + 2)
        rows[self.rank, :-2] = losses
        norms = torch._foreach_norm(gradients_of(parameters))
        rows[self.rank, -2] = torch.stack(norms).square().sum()
        rows[self.rank, -1] = self.noted
        with self.waiting_for(msg("the losses of a step")):
            dist.all_reduce(rows, group=self.group)
        self.broken.clear()
        self.norm = rows[:, -2].sum().sqrt()
        self.noted = self.noted or int(rows[:, -1].max())
        return rows[:, :-2].flatten()

    @torch.no_grad()
    def clip(self, parameters: Sequence[Tensor], most: float) -> Tensor:
        scale = (most / (self.norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
        torch._foreach_mul_(gradients_of(parameters), scale)
        return self.norm

    def lay_out(self, parameters: Sequence[Tensor], behind: int) -> None:
        """Make the common buffer of these parameters' gradients, and of numbers behind them."""
        ends = list(accumulate(-(-each.numel() // ALIGNMENT) * ALIGNMENT for each in parameters))
        # Zero between the views too: their sum is looked at.
        self.buffer = parameters[0].new_zeros(ends[-1] + behind, requires_grad=False)
        self.views = [
            self.buffer[start : start + each.numel()].view(each.shape)
            for start, each in zip([0, *ends], parameters, strict=False)
        ]

    def total(self, values: Tensor) -> Tensor:
        with self.waiting_for(msg("every rank's share of a sum")):
            dist.all_reduce(values, group=self.group)
        return values

    def shares(self, matrices: Sequence[Tensor]) -> list[list[int]]:
        """The places of the matrices that each rank updates: by the work of Muon, evenly."""
        work = [min(each.shape) ** 2 * max(each.shape) for each in matrices]
        shares: list[list[int]] = [[] for _ in range(self.world)]
        given = [0] * self.world
        for place in sorted(range(len(work)), key=lambda place: (-work[place], place)):
            rank = given.index(min(given))
            shares[rank].append(place)
            given[rank] += work[place]
        return shares

    def mine(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        return [matrices[place] for place in self.shares(matrices)[self.rank]]

    @torch.no_grad()
    def exchange(self, matrices: Sequence[Tensor]) -> None:
        if not matrices:
            return
        shares = self.shares(matrices)
        most = max(sum(matrices[place].numel() for place in share) for share in shares)
        sent = matrices[0].new_zeros(most)
        own = [matrices[place].flatten() for place in shares[self.rank]]
        if own:
            torch.cat(own, out=sent[: sum(each.numel() for each in own)])
        received = [torch.empty_like(sent) for _ in range(self.world)]
        with self.waiting_for(msg("the matrices that the others updated")):
            dist.all_gather(received, sent, group=self.group)
        for rank, share in enumerate(shares):
            sizes = [matrices[place].numel() for place in share]
            if rank == self.rank or not share:
                continue
            for place, part in zip(share, received[rank][: sum(sizes)].split(sizes), strict=True):
                matrices[place].copy_(part.view(matrices[place].shape))

    def whole(self, matrices: Sequence[Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
        shapes = [(each.size(0), each.size(1)) for each in matrices]
        with self.waiting_for(msg("the rows of its matrices")):
            return to_owners(parts, shapes, self.shares(matrices), self.group)

    def rows(
        self, matrices: Sequence[Tensor], parts: Sequence[Tensor], share: Sequence[Tensor]
    ) -> list[Tensor]:
        shapes = [(each.size(0), each.size(1)) for each in matrices]
        with self.waiting_for(msg("its rows of the matrices")):
            return to_rows(share, parts, shapes, self.shares(matrices), self.group)

    def started(self) -> None:
        self.group, self.limit_seconds = self.steps_group, self.timeout_seconds

    def heed(self) -> None:
        if self.noted and self.rank == 0:
            number, self.noted = self.noted, 0
            for each, handler in self.handlers.items():
                signal.signal(each, handler)
            signal.raise_signal(number)

    @contextmanager
    def signals_noted(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.handlers = {
            number: signal.signal(number, self.note)
            for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name))
            if signal.getsignal(number) not in (signal.SIG_IGN, None)
        }
        try:
            yield
        finally:
            for number, handler in self.handlers.items():
                signal.signal(number, handler)

    def note(self, number: int, _frame: object) -> None:
        """Keep the first signal for the boundary of a step."""
        self.noted = self.noted or number


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """This rank's rows of the gradients of sharded parameters."""
    found: list[Any] = [each.grad for each in parameters if each.grad is not None]
    return [gradient.to_local() for gradient in found]


def leave() -> None:
    """Close this process's connections to the others, where it has any."""
    with suppress(RuntimeError):
        if dist.is_initialized():
            dist.destroy_process_group()


def cause_of(error: RuntimeError) -> str:
    """torch's message without the place in its sources, and without its guesses."""
    first = reason(error).partition(". ")[0]
    return re.sub(r"^\[[^]]*\] ", "", first)[:160]


def choose_backend(job: Job, device: str) -> str:
    """What carries tensors: gloo between CPUs, NCCL between GPUs, each rank on one of its own.

    Raises: ConfigError for more ranks than GPUs.
    """
    if device == "cpu" or not torch.cuda.is_available():
        return "gloo"
    if job.local_world > torch.cuda.device_count():
        raise ConfigError(
            msg(
                "{local_world} ranks on a machine with {gpus} GPUs: start as many as there are "
                "GPUs, or use --set device=cpu",
                local_world=job.local_world,
                gpus=torch.cuda.device_count(),
            )
        )
    torch.cuda.set_device(job.local_rank)
    return "cpu:gloo,cuda:nccl"
