"""The address of the settings of a training in programs of before; they are in `protokern.config.train`."""

from protokern.config.train import PruneConfig, TrainConfig

__all__ = ["PruneConfig", "TrainConfig"]
