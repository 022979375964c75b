"""Compares every provider's answer with float64 before it is timed."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.ops.cases import Inputs
from benchmarks.ops.ops import Op
from benchmarks.ops.providers import Provider, make_call

# Unit roundoff of a factor that is cut off, not rounded, to the mantissa of the format: what hardware may do.
ROUNDOFF = {"fp32": 0.0, "tf32": 2.0**-10, "bf16": 2.0**-7}


class WrongAnswerError(RuntimeError):
    """A provider disagrees with float64, so its time means nothing."""


def exact_answer(inputs: Inputs, op: Op) -> Tensor:
    """The op in float64, (B, P), image by image; with the activation -d where it has one."""
    prototypes = inputs.prototypes.detach().double()
    rows = []
    for image in inputs.features.detach().flatten(2):  # (D, N)
        rows.append(op.reduce(exact_map(image, prototypes)[None], "linear")[0])
    return torch.stack(rows)


def exact_map(image: Tensor, prototypes: Tensor) -> Tensor:
    """All squared distances of one image's patches (D, N) in float64, (P, N)."""
    patches = image.double()
    norms = patches.square().sum(0) + prototypes.square().sum(1)[:, None]
    return (norms - 2 * prototypes @ patches).clamp_min(0)


def bound(inputs: Inputs, precision: str) -> float:
    """Largest error of a distance that rounding can explain.

    The expanded form has D rounding errors of float32 in numbers up to ||x||^2 + ||p||^2. Rounded factors change the
    product 2 x.p, at most ||x||^2 + ||p||^2 too, by two roundoffs; a patch chosen by such distances can be wrong by
    that much twice.
    """
    depth = inputs.prototypes.shape[1]
    largest = inputs.features.detach().square().sum(1).max() + inputs.prototypes.detach().square().sum(1).max()
    return float((depth * torch.finfo(torch.float32).eps + 4 * ROUNDOFF[precision]) * largest)


def distances_at(inputs: Inputs, patch: Tensor) -> Tensor:
    """Squared distance (B, P) of each prototype to the patch chosen for it, in float64."""
    prototypes = inputs.prototypes.detach().double()
    rows = []
    for image, chosen in zip(inputs.features.detach().flatten(2), patch.long(), strict=True):
        rows.append((image.double()[:, chosen].mT - prototypes).square().sum(1))
    return torch.stack(rows)


def check_answer(provider: Provider, inputs: Inputs, op: Op, exact: Tensor) -> None:
    """Compare one provider's distances with `exact`, the result of `exact_answer`.

    Raises:
        MissingPeerError: the provider cannot run here.
        WrongAnswerError: it is further from float64 than its rounding explains.
    """
    if provider.kind == "line":
        make_call(provider, inputs)
        return
    answer = make_call(provider, inputs, "linear")().detach()
    found = distances_at(inputs, answer) if provider.gives == "patch" else answer.double()
    error = float((found - exact).abs().max())
    allowed = bound(inputs, provider.precision)
    if not error <= allowed:
        raise WrongAnswerError(
            f"{provider.label}: must be within {allowed:.2g} of the float64 distances; got {error:.2g}."
        )
