"""What torchrun says of this process, in its environment. Imports no torch."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Job:
    """One of the processes of a torchrun command; `name` is the same for all of them.

    A restarted process has the name of the one before, so that it finds its run again.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    restarts: int = 0
    name: str = ""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """This process's; that of a process on its own where torchrun has not started it."""
        given = os.environ if environment is None else environment
        if "TORCHELASTIC_RUN_ID" not in given:
            return cls()
        name = given["TORCHELASTIC_RUN_ID"]
        if name == "none":  # torchrun's default is every command's: its agent tells them apart
            name = f"process {os.getppid()} on {socket.gethostname()}"
        return cls(
            rank=int(given["RANK"]),
            world=int(given["WORLD_SIZE"]),
            local_rank=int(given["LOCAL_RANK"]),
            local_world=int(given["LOCAL_WORLD_SIZE"]),
            restarts=int(given.get("TORCHELASTIC_RESTART_COUNT", "0")),
            name=name,
        )

    @property
    def on_one_machine(self) -> bool:
        """Whether all ranks are here."""
        return self.world == self.local_world

    def recorded(self) -> dict[str, str]:
        """What a run's environment.json keeps of it."""
        return {"torchrun": self.name} if self.name else {}
