"""TesNet: logits from projections onto unit prototypes; cosines for two terms of its loss.

Source: the class TESNet in github.com/JackeyWang96/TesNet, model.py.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .projections import Projections
from .protopnet import draw_for
from .trial import Trial


class AcceleratedTesNet(Projections):
    """TesNet's forward pass."""

    prototype_vectors: Tensor
    last_layer: nn.Module
    conv_features: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and smallest negative cosines (B, P) of images (B, 3, Y, X)."""
        features, vectors = self.conv_features(x), self.prototype_vectors
        logits = self.last_layer(self._protokern_largest_projection(features, vectors))
        return logits, -self._protokern_largest_cosine(features, vectors)

    def protokern_outputs(self, projections: Tensor, negative_cosines: Tensor) -> tuple[Tensor, Tensor]:
        """What the program's `forward` returns for its own maps (B, P, H', W')."""
        return self.last_layer(projections.amax((2, 3))), negative_cosines.amin((2, 3))

    @staticmethod
    def protokern_compare(trial: Trial) -> str:
        """Compare the two maps, and what `forward` makes of them."""
        vectors = trial.before.prototype_vectors
        features = draw_for(trial, vectors, lowest=-1)
        trial.pretend("conv_features", features)
        maps = trial.ask("prototype_distances", trial.image)
        wanted = (
            trial.after._protokern_projections(features, vectors),
            -trial.after._protokern_cosines(features, vectors),
        )
        trial.compare("prototype_distances", maps, wanted, projection_scales(features, vectors))
        trial.compare("forward", trial.ask("forward", trial.image), trial.after.protokern_outputs(*maps))
        return ""


def projection_scales(features: Tensor, vectors: Tensor) -> tuple[float, float]:
    """Upper bounds of projections and cosines."""
    cells = vectors.shape[2] * vectors.shape[3]
    return float(features.square().sum(1).amax().sqrt()) * cells, float(cells)
