"""What `min_distance` and `prototype_pool` promise beyond the common contract: which patch, exactness, NaN, memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from protokern import distance_at, distance_map
from protokern.kernels.backends import choose_backend

from . import oracle
from .cases import DTYPES, LAYOUTS, SMALL_PATCHES, TOLERANCE, Case
from .contract import METRICS, OpContract, assert_nearest
from .interpreted import interpreter_leaves_out, interpreter_runs
from .memory import peak_bytes


class NearestContract(OpContract):
    """`run` returns floats and the patch; `nearest` gives the distance and the patch alone."""

    returns_nearest = True

    def nearest(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, Tensor]:
        """Distance (B, P) and patch (B, P)."""
        raise NotImplementedError("a contract needs the op it is about")

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("case", [Case(3, 6, 8, 9, 20), Case(2, 6, 8, 9, 20, (2, 2))], ids=str)
    def test_first_patch_on_a_tie(self, case: Case, metric: str, backend: str) -> None:
        features, prototypes = case.inputs()
        rows = case.height - (0 if case.patch is None else 1)
        half = features[:, :, : case.height // 2]
        repeated = torch.cat([half, half], 2)  # every patch of the upper half stands in the lower half again
        value, patch = self.nearest(repeated, prototypes, metric, backend)
        columns = case.width - (0 if case.patch is None else 1)
        distances = oracle.distance_map(repeated, prototypes, metric)
        assert distances.shape[2] == rows
        upper = distances[:, :, : case.height // 2 - (0 if case.patch is None else 1)]
        nearest_is_repeated = upper.flatten(2).amin(2) <= distances.flatten(2).amin(2)
        assert nearest_is_repeated.any()
        assert (patch // columns)[nearest_is_repeated].max() < case.height // 2
        assert torch.equal(value, distance_at(repeated, prototypes, patch, metric=metric, backend=backend))

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("size", [1, 2, 7, 8, 49, 64, 65, 300])
    @interpreter_runs(size=(1, 7, 300), because="one patch, a part of a tile and many tiles are enough")
    def test_first_of_all_patches_where_all_are_alike(self, size: int, metric: str, backend: str) -> None:
        features = torch.randn(2, 13, 1, 1).expand(2, 13, size, 1).contiguous().requires_grad_()
        prototypes = torch.randn(35, 13)
        value, patch = self.nearest(features, prototypes, metric, backend)
        assert torch.equal(patch, torch.zeros(2, 35, dtype=torch.int64))
        (grad,) = torch.autograd.grad(value.sum(), features)
        assert grad[:, :, 0].abs().sum() > 0
        assert torch.equal(grad[:, :, 1:], torch.zeros(2, 13, size - 1, 1))

    @pytest.mark.parametrize("offset", [0.0, 1000.0])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("metric", oracle.DIFFERENCES)
    @pytest.mark.parametrize("patch_size", [None, (2, 2)])
    def test_exact_copies_are_at_distance_zero(
        self, patch_size: tuple[int, int] | None, metric: str, dtype: torch.dtype, offset: float, backend: str
    ) -> None:
        features, _ = Case(4, 48, 6, 7, 1).inputs(torch.float32)
        features = (features + offset).to(dtype)
        height, width = patch_size or (1, 1)
        columns = 7 - width + 1
        wanted = torch.arange(4) * 3 + 2 * columns + 1
        prototypes = torch.stack(
            [
                features[image, :, at // columns : at // columns + height, at % columns : at % columns + width]
                for image, at in enumerate(wanted.tolist())
            ]
        )
        prototypes = prototypes.detach().clone()
        if patch_size is None:
            prototypes = prototypes.flatten(1)
        features.requires_grad_()
        prototypes.requires_grad_()
        value, patch = self.nearest(features, prototypes, metric, backend)
        own = value.diagonal()
        assert torch.equal(own, torch.zeros_like(own))
        assert (value >= 0).all()
        if dtype in (torch.float64, torch.float32):  # half types cannot tell neighbours apart at an offset of 1000
            assert torch.equal(patch.diagonal(), wanted)
        for grad in torch.autograd.grad(own.sum(), (features, prototypes)):
            assert torch.equal(grad, torch.zeros_like(grad))

    def test_offset_does_not_move_the_nearest_patch(self, backend: str) -> None:
        features, prototypes = Case(6, 64, 7, 7, 200).inputs()
        features, prototypes = (tensor * 2**-6 + 1000 for tensor in (features, prototypes))
        value, patch = self.nearest(features, prototypes, "sqeuclidean", backend)
        distances = oracle.distance_map(features, prototypes, "sqeuclidean")
        torch.testing.assert_close(value.double(), distances.flatten(2).amin(2), rtol=1e-5, atol=0)
        assert_nearest(patch, distances, rtol=1e-5, atol=0)

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("channel", [0, 16])
    def test_non_finite_patch(self, channel: int, bad: float, metric: str, backend: str) -> None:
        features, prototypes = Case(3, 17, 5, 4, 51).inputs()
        clean_value, clean_patch = self.nearest(features, prototypes, metric, backend)
        features[1, channel, 2, 3] = bad
        features[1, 3, 4, 0] = bad
        value, patch = self.nearest(features, prototypes, metric, backend)
        assert value[1].isnan().all()
        assert (patch[1] == 2 * 4 + 3).all()
        for image in (0, 2):
            assert torch.equal(value[image], clean_value[image])
            assert torch.equal(patch[image], clean_patch[image])

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("which", [0, 50])
    @interpreter_runs(which=(50,), because="any prototype will do")
    def test_non_finite_prototype(self, which: int, bad: float, metric: str, backend: str) -> None:
        features, prototypes = Case(3, 17, 5, 4, 51).inputs()
        features[2] = features[2, :, :1, :1]  # all patches alike
        clean_value, clean_patch = self.nearest(features, prototypes, metric, backend)
        prototypes[which, 16] = bad
        value, patch = self.nearest(features, prototypes, metric, backend)
        assert value[:, which].isnan().all()
        assert (patch[:, which] == 0).all()
        others = torch.arange(51) != which
        assert torch.equal(value[:, others], clean_value[:, others])
        assert torch.equal(patch[:, others], clean_patch[:, others])

    @pytest.mark.parametrize("metric", METRICS)
    def test_non_finite_prototype_in_an_image_with_a_non_finite_patch(self, metric: str, backend: str) -> None:
        features, prototypes = Case(1, 5, 3, 3, 4).inputs()
        features[0, 0, 1, 1] = torch.inf
        prototypes[2, 0] = torch.inf
        value, patch = self.nearest(features, prototypes, metric, backend)
        assert value.isnan().all()
        assert patch.tolist() == [[4, 4, 0, 4]]

    @pytest.mark.parametrize("metric", METRICS)
    def test_non_finite_cell_spoils_every_patch_that_covers_it(self, metric: str, backend: str) -> None:
        features, prototypes = SMALL_PATCHES.inputs()  # 4 x 5 cells, patches of 2 x 3, grid 3 x 3
        features[0, 2, 2, 3] = torch.nan
        value, patch = self.nearest(features, prototypes, metric, backend)
        assert value[0].isnan().all()
        assert (patch[0] == 1 * 3 + 1).all()
        assert value[1].isfinite().all()

    def test_distance_too_large_for_the_type_is_infinite_not_nan(self, backend: str) -> None:
        features = torch.full((1, 3, 2, 2), 1e30)
        value, patch = self.nearest(features, -features[0, :, 0, 0][None], "sqeuclidean", backend)
        assert value.tolist() == [[torch.inf]]
        assert patch.tolist() == [[0]]

    @pytest.mark.parametrize("metric", METRICS)
    def test_non_finite_inputs_never_give_a_finite_gradient(self, metric: str, backend: str) -> None:
        features, prototypes = Case(2, 5, 3, 3, 4).inputs()
        features[0, 1, 1, 1] = torch.nan
        features.requires_grad_()
        prototypes.requires_grad_()
        value, _ = self.nearest(features, prototypes, metric, backend)
        grads = torch.autograd.grad(value.sum(), (features, prototypes))
        assert not grads[0][0].isfinite().all()
        assert not grads[1].isfinite().all()
        assert grads[0][1].isfinite().all()

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @interpreter_runs(dtype=(torch.float32,), because="float64 has one path, which the values take")
    def test_same_numbers_as_the_map_and_as_distance_at(self, dtype: torch.dtype, metric: str, backend: str) -> None:
        features, prototypes = Case(3, 29, 6, 5, 40).inputs(dtype)
        value, patch = self.nearest(features, prototypes, metric, backend)
        whole = distance_map(features, prototypes, metric=metric, backend=backend).flatten(2)
        rtol, atol = (1e-14, 1e-15) if dtype == torch.float64 else (1e-6, 1e-7)
        torch.testing.assert_close(whole.gather(2, patch[..., None])[..., 0], value, rtol=rtol, atol=atol)
        at_patch = distance_at(features, prototypes, patch, metric=metric, backend=backend)
        torch.testing.assert_close(at_patch, value, rtol=rtol, atol=atol)

    @pytest.mark.parametrize("setting", ["high", "medium"])
    def test_reduced_matmul_precision_of_the_process_costs_its_rounding_at_most(
        self, setting: str, backend: str
    ) -> None:
        features, prototypes = (torch.sigmoid(tensor) for tensor in Case(2, 128, 12, 12, 100).inputs())
        before = torch.get_float32_matmul_precision()
        wanted = self.nearest(features, prototypes, "sqeuclidean", backend)
        torch.set_float32_matmul_precision(setting)
        try:
            precision = choose_backend(backend, features.device, features.dtype, None).precision
            got = self.nearest(features, prototypes, "sqeuclidean", backend)
        finally:
            torch.set_float32_matmul_precision(before)
        if precision == "fp32":  # this backend takes no part in it
            assert torch.equal(got[0], wanted[0])
            assert torch.equal(got[1], wanted[1])
            return
        # Of a vector this long, rounding moves a patch by 2^-9 (bf16) or 2^-12 (tf32) of its length at most, and a
        # prototype; two patches are compared.
        moved = {"tf32": 2**-11, "bf16": 2**-8}[precision]
        reach = features.flatten(2).norm(dim=1).amax(1)[:, None] + prototypes.norm(dim=1)
        assert (got[0].sqrt() <= wanted[0].sqrt() + moved * reach).all()
        at_patch = distance_at(features, prototypes, got[1], backend=backend)
        torch.testing.assert_close(got[0], at_patch, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("patch_size", [None, (2, 2)])
    @interpreter_leaves_out("a large batch")
    def test_no_tensor_of_all_distances_in_memory(
        self, patch_size: tuple[int, int] | None, metric: str, backend: str
    ) -> None:
        case = Case(32, 6, 14, 14, 1024, patch_size)
        features, prototypes = (tensor.requires_grad_() for tensor in case.inputs())

        def forward_and_backward() -> None:
            value, _ = self.nearest(features, prototypes, metric, backend)
            torch.autograd.grad(value.sum(), (features, prototypes))

        all_distances = 4 * case.batch * case.prototypes * case.height * case.width
        outputs = 4 * case.batch * case.prototypes * (1 + 2 + 2)  # value, patch, similarity and their gradients
        assert peak_bytes(forward_and_backward) - outputs < 0.25 * all_distances

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_offsets_beyond_32_bits(self, dtype: torch.dtype, tmp_path: Path, backend: str) -> None:
        far = 2**31 + 5
        size = torch.empty((), dtype=dtype).element_size()
        # A sparse file: the two images are real, the space between them takes no memory and no disk.
        memory = np.memmap(tmp_path / "features", dtype=np.uint8, mode="w+", shape=(far + 1000) * size)
        storage = torch.from_numpy(memory).view(dtype)
        features = storage.as_strided((2, 3, 4, 5), (far, 20, 5, 1))
        values, prototypes = Case(2, 3, 4, 5, 6).inputs(dtype)
        features.copy_(values)
        wanted = self.nearest(values, prototypes, "sqeuclidean", backend)
        got = self.nearest(features, prototypes, "sqeuclidean", backend)
        assert torch.equal(wanted[0], got[0])
        assert torch.equal(wanted[1], got[1])
        grads = [
            torch.autograd.grad(self.nearest(x.requires_grad_(), prototypes, "sqeuclidean", backend)[0].sum(), x)[0]
            for x in (values, features.detach())
        ]
        torch.testing.assert_close(*grads, rtol=0, atol=0)

    @given(data=st.data())
    @interpreter_leaves_out("a hundred launches")
    def test_any_shape_layout_and_kind_of_values(self, data: st.DataObject, backend: str) -> None:
        features, prototypes, metric = data.draw(problems())
        value, patch = self.nearest(features, prototypes, metric, backend)
        distances = oracle.distance_map(features, prototypes, metric)
        rtol, atol = TOLERANCE[features.dtype]
        at_patch = distances.flatten(2).gather(2, patch[..., None])[..., 0]
        torch.testing.assert_close(value.double(), at_patch, rtol=rtol, atol=atol)
        assert_nearest(patch, distances, rtol, atol)
        assert metric not in oracle.DIFFERENCES or (value >= 0).all()


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, str]:
    """Features, prototypes and a metric: small sizes, every layout and dtype, several families of values."""
    batch, dim, rows, columns, count = (draw(st.integers(1, top)) for top in (4, 40, 9, 9, 70))
    patch = draw(st.none() | st.tuples(st.integers(1, min(3, rows)), st.integers(1, min(3, columns))))
    case = Case(batch, dim, rows, columns, count, patch)
    dtype = draw(st.sampled_from(DTYPES))
    features, prototypes = case.inputs(torch.float64, seed=draw(st.integers(0, 2**31)))
    family = draw(st.sampled_from(["normal", "sigmoid", "offset", "few_values", "zeros", "tiny"]))
    change = {
        "normal": lambda tensor: tensor,
        "sigmoid": torch.sigmoid,
        "offset": lambda tensor: tensor + 50,
        "few_values": torch.round,
        "zeros": torch.zeros_like,
        "tiny": lambda tensor: tensor * 1e-4,
    }[family]
    layouts = draw(st.tuples(st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS))))
    features = LAYOUTS[layouts[0]](change(features).to(dtype))
    prototypes = LAYOUTS[layouts[1]](change(prototypes).to(dtype))
    return features, prototypes, draw(st.sampled_from(METRICS))
