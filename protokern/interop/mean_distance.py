"""Mean distance over the grid, in closed form."""

from __future__ import annotations

from torch import Tensor

from protokern.kernels import distance_map
from protokern.kernels.geometry import compute_dtype


def mean_distance(features: Tensor, prototypes: Tensor, *, backend: str = "auto") -> Tensor:
    """Mean over all patches of the squared distance to every prototype, without the map of them.

    The mean of |x - p|^2 over the patches x of an image is the spread of the patches around their mean m, plus
    |m - p|^2. Both are sums of squares of differences, so the result is never negative, and off by
    little where it is small.

    Args:
        features: (B, D, H, W).
        prototypes: (P, D), one cell each; dtype and device of `features`, or under autocast any of the supported.
        backend: see `protokern.min_distance`.

    Returns:
        (B, P), float32 for half inputs, else the wider dtype of the inputs. Differentiable in both.

    Source: Rymarczyk et al. 2022 (ProtoPool), section 3.2: the average in the focal similarity, as the released program
    takes it, of distances.
    """
    wide = features.to(compute_dtype(features.dtype))
    centre = wide.mean((2, 3), keepdim=True)
    spread = (wide - centre).square().sum(1).mean((1, 2))
    to_centre = distance_map(centre, prototypes.to(centre.dtype), backend=backend)
    return spread[:, None] + to_centre[:, :, 0, 0]
