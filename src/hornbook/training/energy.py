"""The energy a machine spends, where it tells: Intel's and AMD's RAPL counters under Linux."""

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Adds up what the processors' own counters say since the meter was made.

    The counters are of the whole machine, and start again from 0 when full (within minutes on a
    busy server), so read often. Most systems let only root read them: then there is no figure.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        # intel-rapl:0 is a whole processor, intel-rapl:0:1 a part of it, counted there already.
        self.counters = [path for path in root.glob("intel-rapl:*") if path.name.count(":") == 1]
        self.spent_microjoules = 0
        self.last = [read(path / "energy_uj") for path in self.counters]

    def read(self) -> float | None:
        """Joules since the meter was made; None where the machine does not tell."""
        if not self.counters or None in self.last:
            return None
        for i, path in enumerate(self.counters):
            now, before = read(path / "energy_uj"), self.last[i]
            if now is None or before is None:
                return None
            full = read(path / "max_energy_range_uj") or 0
            self.spent_microjoules += now - before if now >= before else now + full - before
            self.last[i] = now
        return self.spent_microjoules / 1e6


def read(path: Path) -> int | None:
    """The number in a file, or None."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
