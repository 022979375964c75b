"""Weighted means over images that are seen once, with bootstrap intervals; only sums are kept."""

from __future__ import annotations

import numpy as np

_INTERVAL = (0.025, 0.975)
# Gives all images the same weight if none has a positive similarity, and has no other effect.
_LEAST_WEIGHT = 1e-12


class ImportanceSums:
    """Running sums of delta x weight and of weights, for the data and for every bootstrap sample.

    In a Poisson bootstrap every image occurs in every sample a Poisson(1) number of times, drawn when the image is
    seen; for many images that is the usual bootstrap.

    Args:
        num_modifications: M.
        num_prototypes: P.
        replicates: bootstrap samples, R, at least 100, because fewer cannot give the ends of an interval.
        seed: of their draws, which depend only on it and on the order of the images.
    """

    def __init__(self, num_modifications: int, num_prototypes: int, *, replicates: int, seed: int) -> None:
        if replicates < 100:
            raise ValueError(f"replicates: must be at least 100; got {replicates}. Use for example 500.")
        self.num_images = 0
        self._random = np.random.default_rng(seed)
        self._delta = np.zeros((num_modifications, num_prototypes))
        self._weight = np.zeros(num_prototypes)
        self._similarity = np.zeros(num_prototypes)
        self._sampled_delta = np.zeros((replicates, num_modifications, num_prototypes))
        self._sampled_weight = np.zeros((replicates, num_prototypes))

    def add(self, delta: np.ndarray, similarity: np.ndarray) -> None:
        """Add a batch of images: delta (B, M, P) and similarity (B, P)."""
        count, replicates = len(delta), len(self._sampled_weight)
        draws = self._random.poisson(1.0, size=(count, replicates)).T.astype(np.float64)  # (R, B)
        weight = np.maximum(similarity, _LEAST_WEIGHT)  # (B, P)
        weighted = delta * weight[:, None, :]  # (B, M, P)
        self.num_images += count
        self._delta += weighted.sum(axis=0)
        self._weight += weight.sum(axis=0)
        self._similarity += similarity.sum(axis=0)
        self._sampled_delta += (draws @ weighted.reshape(count, -1)).reshape(self._sampled_delta.shape)
        self._sampled_weight += draws @ weight

    def score(self) -> np.ndarray:
        """(M, P): the weighted means."""
        score: np.ndarray = self._delta / self._weight
        return score

    def mean_similarity(self) -> np.ndarray:
        """(P,): the mean similarities, not weighted."""
        mean: np.ndarray = self._similarity / self.num_images
        return mean

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Both ends (M, P) of the central 95 % of the samples' means; NaN for fewer than two images."""
        if self.num_images < 2:
            unknown = np.full(self._delta.shape, np.nan)
            return unknown, unknown.copy()
        # With few images, a bootstrap sample may hold none of them and then has no mean.
        weight = np.where(self._sampled_weight > 0, self._sampled_weight, np.nan)
        low, high = np.nanquantile(self._sampled_delta / weight[:, None, :], _INTERVAL, axis=0)
        return low, high
