"""On a device no batch waits for it. Fake tensors of a CUDA device refuse whatever would read a value back."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from protokern.nn import PrototypeLayer
from protokern.search.best import RunningBest


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("all_patches", [False, True])
@pytest.mark.parametrize("k", [1, 9])
def test_batches_are_merged_without_reading_anything_back(k, all_patches, vectors):
    with FakeTensorMode(), torch.no_grad():
        with torch.device("cuda"):
            layer = PrototypeLayer(20, 8)
            features, image, some = torch.rand(4, 8, 5, 5), torch.arange(4), torch.arange(5)
        best = RunningBest(layer, k, all_patches=all_patches, distinct=False, vectors=vectors)
        best.check_grid(features)
        best.offer(features, image)
        best.offer(features, image, some)
        assert best.entries.distance.device.type == "cuda"
        assert best.entries.distance.shape == (20, k)
        with pytest.raises(DataDependentOutputException):  # reads the first bad image
            best.result()
