"""ProtoPFormer: ProtoPNet's similarity of the class token and of the kept tokens of a vision transformer.

Source: the class PPNet in github.com/zju-vipa/ProtoPFormer, protopformer.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from protokern.kernels import distance_at, distance_map

from .base import Accelerated, as_program, as_rows
from .protopnet import draw_for, largest_square, same_similarity
from .trial import Trial


class AcceleratedProtoPFormer(Accelerated):
    """ProtoPFormer's distances; its forward pass is the program's. The maps stay, because `forward` returns them."""

    prototype_activation_function: str | Callable[[Tensor], Tensor]
    use_global: bool
    distance_2_similarity: Callable[[Tensor], Tensor]

    def _l2_convolution_single(self, x: Tensor, prototype_vectors: Tensor) -> Tensor:
        """Distances (B, P, H', W') of tokens (B, D, H, W)."""
        return as_program(distance_map(x, as_rows(prototype_vectors), backend=self.protokern_backend), x)

    def get_activations(self, tokens: Tensor, prototype_vectors: Tensor) -> Any:
        """Similarities (B, P) of tokens (B, D, H, W), and the maps (B, P, H, W) of distances and similarities."""
        distances = self._l2_convolution_single(tokens, prototype_vectors)
        maps = self.distance_2_similarity(distances)
        if self.prototype_activation_function == self.protokern_similarity:
            nearest = distances.detach().flatten(2).argmin(2)
            # The gradient of these makes no map.
            at_nearest = distance_at(tokens, as_rows(prototype_vectors), nearest, backend=self.protokern_backend)
            activations = self.distance_2_similarity(as_program(at_nearest, tokens))
        else:
            activations = maps.amax((2, 3))
        return (activations, (distances, maps)) if self.use_global else activations

    def protokern_outputs(self, distances: Tensor) -> Any:
        """What the program's `get_activations` returns for its own distances (B, P, H, W)."""
        maps = self.distance_2_similarity(distances)
        activations = maps.amax((2, 3))
        return (activations, (distances, maps)) if self.use_global else activations

    @staticmethod
    def protokern_compare(trial: Trial) -> str:
        """Compare the distances, and what `get_activations` makes of them."""
        vectors = trial.before.prototype_vectors
        tokens = draw_for(trial, vectors)[..., :3, :3]  # The program is for square grids.
        distances = trial.ask("_l2_convolution_single", tokens, vectors)
        wanted = trial.after._l2_convolution_single(tokens, vectors)
        trial.compare("_l2_convolution_single", distances, wanted, largest_square(tokens, vectors))
        answer = trial.ask("get_activations", tokens, vectors)
        trial.compare("get_activations", answer, trial.after.protokern_outputs(distances))
        return same_similarity(trial, distances)
