"""The calls that a run times for one op, case and mode: our backends, the peers, the bare product."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import protokern
from benchmarks.inputs import Inputs
from benchmarks.peers import PEERS, Distance, bare_product, log_activation

OPS = ("min_distance", "prototype_pool")
MODES = ("fwd", "full")

# What `torch.mm` is called in the tables; it has no backward of its own worth comparing.
BARE_PRODUCT = "mm"


class WrongAnswerError(RuntimeError):
    """A provider disagrees with float64, so its time means nothing."""


def backend_call(op: str, backend: str) -> Distance:
    """Our op on one backend, as a function of features and prototypes that returns what the loss would use."""
    if op == "min_distance":
        return lambda features, prototypes: protokern.min_distance(features, prototypes, backend=backend).value
    return lambda features, prototypes: protokern.prototype_pool(features, prototypes, backend=backend).activation


def peer_call(op: str, peer: str) -> Distance:
    distance = PEERS[peer]
    if op == "min_distance":
        return distance
    return lambda features, prototypes: log_activation(distance(features, prototypes))


def forward_backward(call: Distance, inputs: Inputs) -> Callable[[], Tensor]:
    """One training step's worth: both gradients, into fresh tensors each time."""

    def step() -> Tensor:
        inputs.features.grad = None
        inputs.prototypes.grad = None
        value = call(inputs.features, inputs.prototypes)
        value.backward(inputs.grad)
        return value

    return step


def forward_only(call: Distance, inputs: Inputs) -> Callable[[], Tensor]:
    def step() -> Tensor:
        with torch.no_grad():
            return call(inputs.features, inputs.prototypes)

    return step


def build_calls(
    op: str, mode: str, inputs: Inputs, backends: list[str], peers: list[str]
) -> dict[str, Callable[[], Tensor]]:
    """Every provider's call for one op and mode, by name."""
    distances = {backend: backend_call(op, backend) for backend in backends}
    distances |= {peer: peer_call(op, peer) for peer in peers if peer != BARE_PRODUCT}
    wrap = forward_only if mode == "fwd" else forward_backward
    calls = {name: wrap(call, inputs) for name, call in distances.items()}
    if mode == "fwd" and BARE_PRODUCT in peers:
        calls[BARE_PRODUCT] = bare_product(inputs.features, inputs.prototypes)
    return calls


def exact_distances(inputs: Inputs) -> Tensor:
    """Smallest squared distances (B, P) in float64, image by image."""
    prototypes = inputs.prototypes.detach().double()
    rows = []
    for image in inputs.features.detach().flatten(2):  # (D, N)
        patches = image.double()
        norms = patches.square().sum(0) + prototypes.square().sum(1)[:, None]  # (P, N)
        rows.append((norms - 2 * prototypes @ patches).amin(dim=1).clamp_min(0))
    return torch.stack(rows)


def check_answers(inputs: Inputs, backends: list[str], peers: list[str]) -> None:
    """Compare every provider's distances with float64.

    The bound is the rounding error of the expanded form, D units in the last place of ||x||^2 + ||p||^2.

    Raises:
        WrongAnswerError: a provider is outside the bound.
    """
    exact = exact_distances(inputs)
    depth = inputs.prototypes.shape[1]
    largest = inputs.features.detach().square().sum(1).max() + inputs.prototypes.detach().square().sum(1).max()
    bound = float(depth * torch.finfo(torch.float32).eps * largest)
    calls = {name: backend_call("min_distance", name) for name in backends}
    calls |= {name: PEERS[name] for name in peers if name != BARE_PRODUCT}
    for name, call in calls.items():
        with torch.no_grad():
            error = float((call(inputs.features, inputs.prototypes).double() - exact).abs().max())
        if not error <= bound:
            raise WrongAnswerError(f"{name}: must be within {bound:.2g} of the float64 distances; got {error:.2g}.")
