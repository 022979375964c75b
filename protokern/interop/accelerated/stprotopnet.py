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

# The trivial branch first, as in the program.
Pair: TypeAlias = tuple[Tensor, ...]


class _TwoBranches(Projections):
    """What the two variants share. Maps of all patches stay the program's, because `forward` returns them."""

    prototype_vectors_trivial: Tensor
    prototype_vectors_support: Tensor
    last_layer_trivial: nn.Module
    last_layer_support: nn.Module
    conv_features: Callable[[Tensor], Pair]
    _cosine_convolution: Callable[[Tensor, Tensor], Tensor]

    def _protokern_branches(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Features (B, D, H, W) of images and prototypes (P, D, h, w) of each branch."""
        vectors = self.prototype_vectors_trivial, self.prototype_vectors_support
        return list(zip(self.conv_features(x), vectors, strict=True))

    def _protokern_logits(self, activations: Pair) -> Pair:
        return self.last_layer_trivial(activations[0]), self.last_layer_support(activations[1])

    @staticmethod
    def _protokern_pretend(trial: Trial) -> tuple[list[tuple[Tensor, Tensor]], float, float]:
        """Give both branches made-up features; returns the branches, and upper bounds of projections and cosines."""
        vectors = trial.before.prototype_vectors_trivial
        features = tuple(draw_for(trial, vectors, lowest=-1) for _ in range(2))
        trial.pretend("conv_features", features)
        return trial.after._protokern_branches(trial.image), *projection_scales(torch.cat(features), vectors)


class AcceleratedCroppedSTProtoPNet(_TwoBranches):
    """The forward pass of the variant for cropped images: logits from projections, cosines for the losses."""

    _project2prototype: Callable[[Tensor, Tensor], Tensor]

    def forward(self, x: Tensor) -> tuple[Pair, Pair, Pair]:
        """Pairs of logits (B, K), largest cosines (B, P) and projections (B, P, H', W') of images (B, 3, Y, X)."""
        branches = self._protokern_branches(x)
        maps = tuple(self._project2prototype(vectors, features) for features, vectors in branches)
        cosines = tuple(self._protokern_largest_cosine(*branch) for branch in branches)
        activations = tuple(
            self._protokern_projection_at_largest(one, *branch) for one, branch in zip(maps, branches, strict=True)
        )
        return self._protokern_logits(activations), cosines, maps

    def protokern_outputs(self, *maps: Tensor) -> tuple[Pair, Pair, Pair]:
        """What the program's `forward` returns for its own projections and cosines (B, P, H', W') of both branches."""
        trivial, support, *cosines = (one.amax((2, 3)) for one in maps)
        return self._protokern_logits((trivial, support)), tuple(cosines), maps[:2]

    @staticmethod
    def protokern_compare(trial: Trial) -> str:
        """Compare the four maps, and what `forward` makes of them."""
        branches, projection, cosine = _TwoBranches._protokern_pretend(trial)
        projections = [trial.after._protokern_projections(*branch) for branch in branches]
        cosines = [trial.after._protokern_cosines(*branch) for branch in branches]
        maps = trial.ask("prototype_similarities", trial.image)
        scales = (projection, projection, cosine, cosine)
        trial.compare("prototype_similarities", maps, (*projections, *cosines), scales)
        for (features, vectors), wanted in zip(branches, projections, strict=True):
            answer = trial.ask("_project2prototype", vectors, features)
            trial.compare("_project2prototype", answer, wanted, projection)
        trial.compare("forward", trial.ask("forward", trial.image), trial.after.protokern_outputs(*maps))
        return ""


class AcceleratedFullSTProtoPNet(_TwoBranches):
    """The forward pass of the variant for whole images: relu of the cosine for everything."""

    def forward(self, x: Tensor) -> tuple[Pair, Pair, Pair]:
        """Pairs of logits (B, K), largest similarities (B, P) and maps (B, P, H', W') of images (B, 3, Y, X)."""
        branches = self._protokern_branches(x)
        maps = tuple(torch.relu(self._cosine_convolution(vectors, features)) for features, vectors in branches)
        activations = tuple(
            torch.relu(self._protokern_cosine_at_largest(one, *branch))
            for one, branch in zip(maps, branches, strict=True)
        )
        return self._protokern_logits(activations), activations, maps

    def protokern_outputs(self, *maps: Tensor) -> tuple[Pair, Pair, Pair]:
        """What the program's `forward` returns for its own maps (B, P, H', W') of both branches."""
        activations = tuple(one.amax((2, 3)) for one in maps)
        return self._protokern_logits(activations), activations, maps

    @staticmethod
    def protokern_compare(trial: Trial) -> str:
        """Compare the two maps, and what `forward` makes of them."""
        branches, _, scale = _TwoBranches._protokern_pretend(trial)
        cosines = [trial.after._protokern_cosines(*branch) for branch in branches]
        maps = trial.ask("prototype_distances", trial.image)
        trial.compare("prototype_distances", maps, tuple(torch.relu(one) for one in cosines), scale)
        for (features, vectors), wanted in zip(branches, cosines, strict=True):
            trial.compare("_cosine_convolution", trial.ask("_cosine_convolution", vectors, features), wanted, scale)
        trial.compare("forward", trial.ask("forward", trial.image), trial.after.protokern_outputs(*maps))
        return ""
