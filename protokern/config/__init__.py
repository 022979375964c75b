"""The configuration of a run: what can be set, read from TOML files and `--set`, and written to run.toml."""

from protokern.config.data import DataConfig
from protokern.config.run import (
    RunConfig,
    apply_changes,
    config_to_dict,
    config_to_toml,
    differing_keys,
    load_config,
    parse_config,
)
from protokern.config.train import PruneConfig, TrainConfig

__all__ = [
    "DataConfig",
    "PruneConfig",
    "RunConfig",
    "TrainConfig",
    "apply_changes",
    "config_to_dict",
    "config_to_toml",
    "differing_keys",
    "load_config",
    "parse_config",
]
