"""protokern: fast and exact prototypical-part networks ("this looks like that")."""

from __future__ import annotations

from protokern.deferred import defer

__version__ = "0.1.0"

_PUBLIC = {
    "LogitsOnly": "protokern.models.wrapped",
    "MinDistance": "protokern.kernels",
    "PrototypePool": "protokern.kernels",
    "TopKPool": "protokern.kernels",
    "available_backends": "protokern.kernels",
    "distance_at": "protokern.kernels",
    "distance_map": "protokern.kernels",
    "load": "protokern.nets",
    "mean_activation": "protokern.kernels",
    "min_distance": "protokern.kernels",
    "nearest_examples": "protokern.nets",
    "prototype_pool": "protokern.kernels",
    "topk_pool": "protokern.kernels",
    "wrap": "protokern.nets",
}

__all__ = ["__version__", *_PUBLIC]


__getattr__ = defer(__name__, _PUBLIC)


def __dir__() -> list[str]:
    return sorted(__all__)
