"""The energy meter: adds up whole processors, over a counter that starts again."""

from pathlib import Path

from hornbook.training.energy import EnergyMeter


def counter(root: Path, name: str, microjoules: int) -> Path:
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("10000000\n")
    return folder


def test_it_adds_up_processors_and_counts_no_part_twice(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0", "intel-rapl"):
        counter(tmp_path, name, 1_000_000)
    meter = EnergyMeter(tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0", "intel-rapl"):
        counter(tmp_path, name, 3_500_000)
    assert meter.read() == 5.0
    assert meter.read() == 5.0


def test_a_counter_that_starts_again_goes_on(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", 9_000_000)
    meter = EnergyMeter(tmp_path)
    counter(tmp_path, "intel-rapl:0", 500_000)
    assert meter.read() == 1.5


def test_where_the_machine_does_not_tell_there_is_no_figure(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path / "absent").read() is None
    counter(tmp_path, "intel-rapl:0", 1).joinpath("energy_uj").unlink()
    assert EnergyMeter(tmp_path).read() is None
