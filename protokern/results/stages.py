"""The stages of a training by name, and their names for people."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Stage = Literal[
    "start",
    "pretrain",
    "sheet",
    "warm",
    "joint",
    "hardening",
    "push",
    "exemplars",
    "live",
    "last_layer",
    "prune",
    "pruned_last_layer",
]


class StageNames(NamedTuple):
    """The names of a stage.

    Attributes:
        summary: the key in metrics.json of the result after it; a run has one entry for warm and joint.
        terminal: the name in the lines of a training.
        page: the name in the report.
    """

    summary: str
    terminal: str
    page: str


STAGES: dict[str, StageNames] = {
    "start": StageNames("after_start", "start", "start at patches"),
    "pretrain": StageNames("after_pretrain", "pre-training", "pre-training"),
    "sheet": StageNames("after_sheet", "sheet", "scoring sheet"),
    "warm": StageNames("after_joint", "warm", "warm-up"),
    "joint": StageNames("after_joint", "joint", "joint training, best epoch"),
    "hardening": StageNames("after_hardening", "hardening", "hardening"),
    "push": StageNames("after_push", "push", "push"),
    "exemplars": StageNames("after_exemplars", "exemplars", "exemplars"),
    "live": StageNames("after_live", "live", "live prototypes"),
    "last_layer": StageNames("after_last_layer", "last layer", "last layer"),
    "prune": StageNames("after_prune", "prune", "pruning"),
    "pruned_last_layer": StageNames("after_pruned_last_layer", "last layer after pruning", "last layer after pruning"),
}
assert tuple(STAGES) == get_args(Stage)
