"""Old address of the settings of a training, kept for programs that import them from here; see `protokern.config`."""

from protokern.config.train import PruneConfig, TrainConfig

__all__ = ["PruneConfig", "TrainConfig"]
