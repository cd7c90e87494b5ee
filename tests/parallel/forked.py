"""Ranks as torchrun starts them, but forked from a process that has imported torch already.

Usage: forked.py RANKS ARGUMENTS... , or forked.py --each for several commands of [RANKS, ARGUMENTS]
as JSON on stdin, one after the other, with files for their output. A rank of torchrun's takes two
seconds to begin. Where SPOILED is set, rank 1 is not like the others: "seed" gives it another seed,
and a number makes its loss NaN in that step.
"""

import importlib
import json
import os
import shutil
import socket
import sys

import torch

import hornbook.cli
import hornbook.cli.train
import hornbook.report
import hornbook.training.ranks


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def spoil(step: int) -> None:
    """Make the output of the first of two blocks NaN in one training step."""
    passes: list[int] = []

    def hook(part: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor | None:
        if type(part).__name__ == "Block" and torch.is_grad_enabled():
            passes.append(1)
            if len(passes) == 2 * (step - 1) + 1:
                return output * float("nan")
        return None

    torch.nn.modules.module.register_module_forward_hook(hook)


def main(ranks: int, arguments: list[str]) -> int:
    """Run one command in so many processes; returns 1 where one of them failed."""
    port, children = str(free_port()), []
    for rank in range(ranks):
        if child := os.fork():
            children.append(child)
            continue
        os.environ.update(
            RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
            LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(ranks), TORCHELASTIC_RUN_ID="forked",
        )  # fmt: skip
        spoiled = os.environ.get("SPOILED", "") if rank == 1 else ""
        if spoiled.isdigit():
            spoil(int(spoiled))
        elif spoiled:
            arguments += ["--seed", "5"]
        return hornbook.cli.run(arguments)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    return int(any(statuses))


def each(commands: list[tuple[int, list[str]]]) -> None:
    """Run the commands, each with its output in files N.out and N.err of the working folder.

    One of no ranks copies a folder.
    """
    for name in ("hornbook.training.sharded", "torch._dynamo"):  # 2 s of each rank otherwise
        importlib.import_module(name)
    for number, (ranks, arguments) in enumerate(commands):
        for descriptor, suffix in ((1, "out"), (2, "err")):
            file = os.open(f"{number}.{suffix}", os.O_WRONLY | os.O_CREAT)
            os.dup2(file, descriptor)
        if not ranks:
            shutil.copytree(*arguments)
        elif child := os.fork():
            os.waitpid(child, 0)
        else:
            status = main(ranks, arguments)
            sys.stdout.flush()
            os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "--each":
        each(json.load(sys.stdin))
        sys.exit()
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
