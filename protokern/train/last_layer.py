"""Old address of the solvers of the last layer, kept for programs that import them from here."""

from protokern.solvers.last_layer import (
    LastLayerInputs,
    LastLayerResult,
    SolvedLastLayer,
    can_be_solved,
    collect_activations,
    collect_inputs,
    solve_last_layer,
    train_last_layer,
)

__all__ = [
    "LastLayerInputs",
    "LastLayerResult",
    "SolvedLastLayer",
    "can_be_solved",
    "collect_activations",
    "collect_inputs",
    "solve_last_layer",
    "train_last_layer",
]
