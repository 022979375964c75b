"""ST-ProtoPNet: two sets of prototypes, "trivial" and "support", each with features and a last layer of its own.

Source: the class STProtoPNet in github.com/cwangrun/ST-ProtoPNet, cropped/model.py and full/model.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .projections import Projections
from .protopnet import draw_for
from .tesnet import projection_scales
from .trial import Trial

Pair: TypeAlias = tuple[Tensor, Tensor]


class _TwoBranches(Projections):
    """What the two variants share. Maps of all patches stay, because `forward` returns them."""

    prototype_vectors_trivial: Tensor
    prototype_vectors_support: Tensor
    last_layer_trivial: nn.Module
    last_layer_support: nn.Module
    conv_features: Callable[[Tensor], Pair]

    def _cosine_convolution(self, prototypes: Tensor, x: Tensor) -> Tensor:
        """Cosines (B, P, H', W') of features (B, D, H, W)."""
        return self._protokern_cosines(x, prototypes)

    def _protokern_branches(self, x: Tensor) -> list[Pair]:
        """Features and prototypes of each branch."""
        trivial, support = self.conv_features(x)
        return [(trivial, self.prototype_vectors_trivial), (support, self.prototype_vectors_support)]

    def _protokern_logits(self, activations: Pair) -> Pair:
        return self.last_layer_trivial(activations[0]), self.last_layer_support(activations[1])

    def _protokern_cosine_maps(self, x: Tensor) -> Pair:
        """Cosines (B, P, H', W') of images, branch by branch."""
        trivial, support = self._protokern_branches(x)
        return self._protokern_cosines(*trivial), self._protokern_cosines(*support)

    @staticmethod
    def _protokern_pretend(trial: Trial) -> tuple[float, float]:
        """Give both branches made-up features; returns upper bounds of projections and cosines."""
        vectors = trial.before.prototype_vectors_trivial
        features = tuple(draw_for(trial, vectors, lowest=-1) for _ in range(2))
        trial.pretend("conv_features", features)
        return projection_scales(torch.cat(features), vectors)


class AcceleratedCroppedSTProtoPNet(_TwoBranches):
    """The forward pass of the variant for cropped images: logits from projections, cosines for the losses."""

    def _project2prototype(self, prototypes: Tensor, x: Tensor) -> Tensor:
        """Projections (B, P, H', W') of features (B, D, H, W)."""
        return self._protokern_projections(x, prototypes)

    def forward(self, x: Tensor) -> tuple[Pair, Pair, Pair]:
        """Pairs of logits (B, K), largest cosines (B, P) and projections (B, P, H', W') of images (B, 3, Y, X)."""
        trivial, support = self._protokern_branches(x)
        maps = self._protokern_projections(*trivial), self._protokern_projections(*support)
        cosines = self._protokern_largest_cosine(*trivial), self._protokern_largest_cosine(*support)
        activations = (
            self._protokern_projection_at_largest(maps[0], *trivial),
            self._protokern_projection_at_largest(maps[1], *support),
        )
        return self._protokern_logits(activations), cosines, maps

    def protokern_outputs(
        self, trivial: Tensor, support: Tensor, trivial_cosines: Tensor, support_cosines: Tensor
    ) -> tuple[Pair, Pair, Pair]:
        """What the program's `forward` returns for its own maps (B, P, H', W')."""
        activations = trivial.amax((2, 3)), support.amax((2, 3))
        cosines = trivial_cosines.amax((2, 3)), support_cosines.amax((2, 3))
        return self._protokern_logits(activations), cosines, (trivial, support)

    @staticmethod
    def protokern_compare(trial: Trial) -> str:
        """Compare the four maps, and what `forward` makes of them."""
        projection, cosine = _TwoBranches._protokern_pretend(trial)
        maps = trial.ask("prototype_similarities", trial.image)
        trivial, support = trial.after._protokern_branches(trial.image)
        wanted = (
            *(trial.after._protokern_projections(*trivial), trial.after._protokern_projections(*support)),
            *trial.after._protokern_cosine_maps(trial.image),
        )
        trial.compare("prototype_similarities", maps, wanted, (projection, projection, cosine, cosine))
        trial.compare("forward", trial.ask("forward", trial.image), trial.after.protokern_outputs(*maps))
        return ""


class AcceleratedFullSTProtoPNet(_TwoBranches):
    """The forward pass of the variant for whole images: relu of the cosine for everything."""

    def forward(self, x: Tensor) -> tuple[Pair, Pair, Pair]:
        """Pairs of logits (B, K), largest similarities (B, P) and maps (B, P, H', W') of images (B, 3, Y, X)."""
        trivial, support = self._protokern_branches(x)
        maps = torch.relu(self._protokern_cosines(*trivial)), torch.relu(self._protokern_cosines(*support))
        activations = (
            torch.relu(self._protokern_cosine_at_largest(maps[0], *trivial)),
            torch.relu(self._protokern_cosine_at_largest(maps[1], *support)),
        )
        return self._protokern_logits(activations), activations, maps

    def protokern_outputs(self, trivial: Tensor, support: Tensor) -> tuple[Pair, Pair, Pair]:
        """What the program's `forward` returns for its own maps (B, P, H', W')."""
        activations = trivial.amax((2, 3)), support.amax((2, 3))
        return self._protokern_logits(activations), activations, (trivial, support)

    @staticmethod
    def protokern_compare(trial: Trial) -> str:
        """Compare the two maps, and what `forward` makes of them."""
        _, cosine = _TwoBranches._protokern_pretend(trial)
        maps = trial.ask("prototype_distances", trial.image)
        wanted = tuple(torch.relu(one) for one in trial.after._protokern_cosine_maps(trial.image))
        trial.compare("prototype_distances", maps, wanted, cosine)
        trial.compare("forward", trial.ask("forward", trial.image), trial.after.protokern_outputs(*maps))
        return ""
