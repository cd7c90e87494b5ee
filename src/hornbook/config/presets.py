"""Presets: each model's own, and the sizes that have a name."""

from typing import Any

from hornbook.config.settings import Config, ModelConfig
from hornbook.config.spec import MODELS, spec_of
from hornbook.errors import ConfigError
from hornbook.language import msg

# Presets that are sizes of a model; the defaults are `laptop`, about two minutes on two CPU cores.
SIZES: dict[str, dict[str, Any]] = {
    "laptop": {},
    # Twenty seconds, to see that everything works.
    "quick": {"block_size": 64, "n_layer": 2, "n_embd": 64, "steps": 200, "eval_interval": 50},
    # The lecture's last model: 10.8 million parameters, for a GPU.
    "lecture": {
        "model": "layernorm",
        "n_layer": 6,
        "n_head": 6,
        "n_embd": 384,
        "block_size": 256,
        "dropout": 0.2,
        "batch_size": 64,
        "learning_rate": 3e-4,
        "precision": "auto",
    },
}


def preset_names() -> list[str]:
    """Every preset: the sizes of the default model, the other models, the lecture's last model."""
    models = [name for name in MODELS if name != ModelConfig.model]
    return ["laptop", "quick", *models, "lecture"]


def preset_values(name: str) -> dict[str, Any]:
    """The settings that a preset gives.

    Raises: ConfigError listing the presets.
    """
    if name not in preset_names():
        raise ConfigError(
            msg(
                "unknown preset {name!r}; expected one of {known}",
                name=name,
                known=", ".join(preset_names()),
            )
        )
    size = SIZES.get(name, {"model": name})
    return {**spec_of(size.get("model", ModelConfig.model)).preset, **size}


def preset(name: str) -> Config:
    """The preset of that name.

    Raises: ConfigError listing the presets.
    """
    return Config().override(**preset_values(name))
