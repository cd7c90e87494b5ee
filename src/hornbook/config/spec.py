"""The models there are, and what a spec says of each. Importing this does not import torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hornbook.config.settings import ModelConfig

# Each model and the module that describes it in `SPECS`. A new model is one line here.
MODELS = {
    "ngram": "hornbook.models.ngram",
    "bigram": "hornbook.models.bigram",
    "average": "hornbook.models.averaging",
    "head": "hornbook.models.attention",
    "heads": "hornbook.models.attention",
    "feedforward": "hornbook.models.transformer",
    "residual": "hornbook.models.transformer",
    "layernorm": "hornbook.models.transformer",
    "gpt": "hornbook.models.gpt_spec",
    "gpt2": "hornbook.models.gpt2",
}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What hornbook knows of a model; it stands in `SPECS` of the module that `MODELS` names.

    `network(config, vocab_size)` builds it, freshly initialised; None for a model that is made by
    counting, which has nothing to train. `parameters(config, vocab_size)` counts its parameters
    without building it. `activations(config)` is how many numbers PyTorch keeps of one position in
    training, for the backward pass, logits not included. `check` raises ConfigError for a shape
    that the network cannot have. `preset` holds the settings that differ from the defaults.
    """

    idea: str  # what it adds to the model below it on the ladder
    network: Callable[[ModelConfig, int], Any] | None
    parameters: Callable[[ModelConfig, int], int]
    activations: Callable[[ModelConfig], float]
    check: Callable[[ModelConfig], None] = lambda _: None
    preset: Mapping[str, Any] = field(default_factory=dict)
    ladder: Mapping[str, Any] = field(default_factory=dict)  # settings on the ladder, over `preset`
    rung: bool = True  # whether it is on the ladder
    branch: bool = False  # on the ladder no other model is compared with it
    joins_counts: bool = False  # n-grams can be joined to it
    windows: bool = False  # it reads past its block, through windows as long as that
    c_kernels: bool = False  # C kernels or torch.compile may run its blocks
    planned: bool = False  # a plan for minutes may choose its shape

    @property
    def counted(self) -> bool:
        """Whether it is made by counting, with nothing to train."""
        return self.network is None


def spec_of(name: str) -> ModelSpec:
    """The spec of a model. Any but the default's imports torch."""
    return importlib.import_module(MODELS[name]).SPECS[name]
