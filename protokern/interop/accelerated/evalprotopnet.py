"""EvalProtoPNet: TesNet's readings, a softmax of weights in each class, and maps that its loss compares.

Source: the class OursNet in github.com/hqhQAQ/EvalProtoPNet, model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .projections import Projections
from .protopnet import draw_for
from .tesnet import projection_scales
from .trial import Trial


class AcceleratedEvalProtoPNet(Projections):
    """EvalProtoPNet's forward pass. The projections of all patches stay, because `forward` returns them."""

    prototype_vectors: Tensor
    shallow_layer_idx: int
    conv_features: Callable[[Tensor], tuple[Tensor, Sequence[Tensor]]]
    _project2basis: Callable[[Tensor], Tensor]
    forward_SA_module: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Logits (B, K) of images (B, 3, Y, X), and what the losses take.

        These are the smallest negative cosines (B, P), the projections (B, P, N), and two feature maps (B, C, N).
        """
        (features, maps), vectors = self.conv_features(x), self.prototype_vectors
        projections = self._project2basis(features)
        largest = self._protokern_projection_at_largest(projections, features, vectors)
        negative_cosines = -self._protokern_largest_cosine(features, vectors)
        return self.forward_SA_module(largest), self._protokern_for_losses(negative_cosines, projections, maps)

    def protokern_outputs(self, projections: Tensor, negative_cosines: Tensor, maps: Sequence[Tensor]) -> Any:
        """What the program's `forward` returns for its own maps (B, P, H', W') and the backbone's."""
        logits = self.forward_SA_module(projections.amax((2, 3)))
        return logits, self._protokern_for_losses(negative_cosines.amin((2, 3)), projections, maps)

    def _protokern_for_losses(
        self, negative_cosines: Tensor, projections: Tensor, maps: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        shallow = maps[self.shallow_layer_idx]
        # Each cell of the deep grid gets all shallow cells that it covers.
        shallow = F.pixel_unshuffle(shallow, shallow.shape[-1] // projections.shape[-1])
        return negative_cosines, projections.flatten(2), shallow.flatten(2), maps[-1].flatten(2)

    @staticmethod
    def protokern_compare(trial: Trial) -> str:
        """Compare the two maps, and what `forward` makes of them."""
        vectors = trial.before.prototype_vectors
        # The program is for square grids.
        features = draw_for(trial, vectors, lowest=-1)[..., :3, :3]
        shallow, deep = trial.draw(2, 2, 6, 6), trial.draw(2, 4, 3, 3)
        trial.pretend("conv_features", (features, [shallow] * (trial.before.shallow_layer_idx + 1) + [deep]))
        answer = trial.ask("prototype_distances", trial.image)
        projections, cosines = (
            trial.after._protokern_projections(features, vectors),
            trial.after._protokern_cosines(features, vectors),
        )
        scales = projection_scales(features, vectors)
        trial.compare("prototype_distances", answer[:2], (projections, -cosines), scales)
        trial.compare("_project2basis", trial.ask("_project2basis", features), projections, scales[0])
        trial.compare("forward", trial.ask("forward", trial.image), trial.after.protokern_outputs(*answer))
        return ""
