"""The settings of a run, the models they may name, and where each requested value came from.

Values come, strongest first, from flags, `--set`, the environment (`HORNBOOK_N_LAYER=6`), a TOML
file, a preset, and the defaults. Importing this does not import torch.
"""

from hornbook.config.presets import SIZES, preset, preset_names, preset_values
from hornbook.config.request import Origin, Request, load_config
from hornbook.config.settings import (
    FIELDS,
    READ_AT_ONCE,
    SECTIONS,
    Config,
    DataConfig,
    Family,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    Section,
    TrainConfig,
    environment_settings,
    locate,
    one_of,
    parse,
    parse_all,
    parse_assignments,
    read_settings,
)
from hornbook.config.spec import MODELS, ModelSpec, spec_of
