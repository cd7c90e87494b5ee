"""What was requested: settings, and where each value came from."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from hornbook.config.settings import FIELDS, Config, locate, read_settings
from hornbook.errors import ConfigError
from hornbook.language import msg

Origin = Literal["default", "preset", "file", "environment", "set", "flag"]

# Of minutes and steps the one with the stronger origin says how long to train.
STRENGTH: dict[Origin, int] = {"environment": 1, "set": 1, "flag": 2}


@dataclass(frozen=True)
class Request:
    """Settings, and the origin of each value; a name that is not in `origins` has its default.

    A plan keeps what was requested, and chooses the rest.
    """

    config: Config = field(default_factory=Config)
    origins: Mapping[str, Origin] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config) -> Self:
        """A plain Config as a request for what differs from the defaults.

        With `minutes`, the number of steps follows from the time.
        """
        usual = Config()
        differing = {
            name
            for name, section in FIELDS.items()
            if getattr(getattr(config, section), name) != getattr(getattr(usual, section), name)
        }
        if config.train.minutes:
            differing.discard("steps")
        return cls(config, dict.fromkeys(differing, "flag"))

    def requested(self, *names: str) -> bool:
        """Whether a value of any of these names was requested, be it the default one."""
        return any(self.origins.get(name, "default") != "default" for name in names)

    def layer(self, layers: Mapping[Origin, Mapping[str, Any]]) -> Self:
        """A copy with values laid over it, by their origin, the weakest first.

        Raises: as `Config.override`, once for all layers.
        """
        values: dict[str, Any] = {}
        origins: dict[str, Origin] = dict(self.origins)
        for origin, given in layers.items():
            for name, value in given.items():
                _, key = locate(name)
                values[key], origins[key] = value, origin
        return dataclasses.replace(self, config=self.config.override(**values), origins=origins)

    def lasting(self, default: float | None) -> Self:
        """A copy with minutes or steps, not both; `default` minutes where neither is requested.

        Raises: ConfigError when both are requested alike, or no time.
        """
        minutes, steps = (
            STRENGTH.get(self.origins.get(name, "default"), 0) for name in ("minutes", "steps")
        )
        # A run's own config.toml has both: minutes = 0 for one that was given steps.
        by_file = {self.origins.get(name) for name in ("minutes", "steps")} == {"file"}
        no_time = self.requested("minutes") and not self.config.train.minutes
        if no_time and minutes >= steps and not by_file:
            raise ConfigError(msg("minutes = 0 leaves no time to train: give more, or give steps"))
        if minutes and minutes == steps:
            raise ConfigError(msg("minutes and steps both say how long to train; give one of them"))
        if steps > minutes:
            return self.layer({"default": {"minutes": 0.0}})
        if minutes:  # a plan sets the steps
            return self.layer({"default": {"steps": self.config.train.steps}})
        return self if default is None else self.layer({"default": {"minutes": default}})

    def read(self, path: str | os.PathLike[str]) -> Self:
        """A copy with the values of a TOML file laid over it.

        Raises: ConfigError naming the file.
        """
        values = read_settings(path)
        try:
            return self.layer({"file": values})
        except ConfigError as error:
            raise ConfigError(msg("{path}: {error}", path=path, error=error)) from None


def load_config(path: str | os.PathLike[str], base: Config | None = None) -> Config:
    """Read a TOML file over `base` (the defaults when none is given).

    Raises: ConfigError naming the file, for one that is missing, malformed or has unknown keys.
    """
    return Request(base or Config()).read(path).config
