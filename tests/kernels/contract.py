"""The battery that every op passes on every backend. A test class inherits `OpContract` and supplies op and truth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from protokern.kernels import metric as metrics

from . import oracle
from .cases import (
    CASES,
    DTYPES,
    EMPTY_CASES,
    LAYOUT_PAIRS,
    LAYOUTS,
    SMALL,
    SMALL_PATCHES,
    TOLERANCE,
    Case,
    gradient_tolerance,
)
from .interpreted import interpreter_leaves_out, interpreter_runs, interpreter_runs_for_every_op, is_new_layout

METRICS = metrics.METRICS


class OpContract:
    """Rules shared by all ops. `run` calls the op, `expected` gives the same floating-point outputs from the oracle."""

    returns_nearest = False
    # How far, relatively, a pair's answer may move with the prototypes that stand beside it.
    company = 0.0

    def run(self, features: Tensor, prototypes: Tensor, metric: str, backend: str) -> tuple[Tensor, ...]:
        """Floating-point outputs, then the patch (B, P) if the op has one."""
        raise NotImplementedError("a contract needs the op it is about")

    def expected(self, distances: Tensor, patch: Tensor | None, metric: str) -> tuple[Tensor, ...]:
        """The floating-point outputs made of float64 `distances` (B, P, H', W') at `patch`."""
        raise NotImplementedError("a contract needs the truth of its op")

    def floats_and_patch(
        self, features: Tensor, prototypes: Tensor, metric: str, backend: str
    ) -> tuple[list[Tensor], Tensor | None]:
        outputs = self.run(features, prototypes, metric, backend)
        floats = [output for output in outputs if output.is_floating_point()]
        patches = [output for output in outputs if not output.is_floating_point()]
        return floats, patches[0] if patches else None

    def gradients(
        self, features: Tensor, prototypes: Tensor, metric: str, backend: str, weights: list[Tensor]
    ) -> tuple[Tensor, ...]:
        x, p = features.detach().requires_grad_(), prototypes.detach().requires_grad_()
        floats, _ = self.floats_and_patch(x, p, metric, backend)
        return torch.autograd.grad(floats, (x, p), weights)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("case", CASES, ids=str)
    @interpreter_runs_for_every_op
    def test_values_and_gradients_equal_the_oracle(
        self, case: Case, metric: str, dtype: torch.dtype, backend: str
    ) -> None:
        features, prototypes = (tensor.requires_grad_() for tensor in case.inputs(dtype))
        floats, patch = self.floats_and_patch(features, prototypes, metric, backend)
        x, p = (tensor.detach().double().requires_grad_() for tensor in (features, prototypes))
        distances = oracle.distance_map(x, p, metric)
        rtol, atol = TOLERANCE[dtype]
        if self.returns_nearest:
            assert patch is not None
            assert_nearest(patch, distances.detach(), rtol, atol)
        truth = self.expected(distances, patch, metric)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        for output, wanted in zip(floats, truth, strict=True):
            assert output.dtype == wide
            torch.testing.assert_close(output.double(), wanted, rtol=rtol, atol=atol)
        weights = [torch.randn_like(output) for output in floats]
        grads = torch.autograd.grad(floats, (features, prototypes), weights)
        wanted_grads = torch.autograd.grad(truth, (x, p), [weight.double() for weight in weights])
        rtol, atol = gradient_tolerance(dtype)
        for grad, source, wanted in zip(grads, (features, prototypes), wanted_grads, strict=True):
            assert grad.dtype == dtype
            assert grad.shape == source.shape
            # Terms of either sign are summed: the error is relative to the largest sum.
            scale = max(1.0, wanted.abs().max().item())
            torch.testing.assert_close(grad.double(), wanted, rtol=rtol, atol=atol * scale)

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES], ids=str)
    @pytest.mark.parametrize(("of_features", "of_prototypes"), LAYOUT_PAIRS)
    @interpreter_runs(when=is_new_layout, because="the offsets are those of another case")
    def test_any_strides_give_the_same_numbers(
        self, of_features: str, of_prototypes: str, case: Case, metric: str, backend: str
    ) -> None:
        features, prototypes = case.inputs()
        laid_out = LAYOUTS[of_features](features), LAYOUTS[of_prototypes](prototypes)
        torch.testing.assert_close(laid_out[0], features, rtol=0, atol=0)
        torch.testing.assert_close(laid_out[1], prototypes, rtol=0, atol=0)
        plain, _ = self.floats_and_patch(features, prototypes, metric, backend)
        floats, _ = self.floats_and_patch(*laid_out, metric, backend)
        weights = [torch.randn_like(output) for output in plain]
        wanted = [*plain, *self.gradients(features, prototypes, metric, backend, weights)]
        got = [*floats, *self.gradients(*laid_out, metric, backend, weights)]
        for one, other in zip(wanted, got, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES], ids=str)
    def test_broadcast_features_and_gradients_without_memory_of_their_own(self, case: Case, backend: str) -> None:
        features, prototypes = case.inputs()
        same = features[:1].expand_as(features)
        plain, _ = self.floats_and_patch(same.contiguous(), prototypes, "sqeuclidean", backend)
        floats, _ = self.floats_and_patch(same, prototypes, "sqeuclidean", backend)
        ones = [torch.ones_like(output) for output in floats]
        expanded = [torch.ones(()).expand_as(output) for output in floats]
        wanted = self.gradients(same.contiguous(), prototypes, "sqeuclidean", backend, ones)
        got = self.gradients(same, prototypes, "sqeuclidean", backend, expanded)
        for one, other in zip([*plain, *wanted], [*floats, *got], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES], ids=str)
    def test_incoming_gradients_of_any_strides(self, case: Case, backend: str) -> None:
        features, prototypes = case.inputs()
        floats, _ = self.floats_and_patch(features, prototypes, "sqeuclidean", backend)
        weights = [torch.randn_like(output) for output in floats]
        strided = [LAYOUTS["every_second"](weight) for weight in weights]
        assert not any(weight.is_contiguous() for weight in strided)
        wanted = self.gradients(features, prototypes, "sqeuclidean", backend, weights)
        got = self.gradients(features, prototypes, "sqeuclidean", backend, strided)
        for one, other in zip(wanted, got, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES], ids=str)
    @interpreter_runs(metric=("sqeuclidean",), because="the metric does not decide which gradients are wanted")
    def test_gradient_of_one_input_alone(self, case: Case, metric: str, backend: str) -> None:
        features, prototypes = case.inputs()
        floats, _ = self.floats_and_patch(features, prototypes, metric, backend)
        weights = [torch.randn_like(output) for output in floats]
        both = self.gradients(features, prototypes, metric, backend, weights)
        for position in (0, 1):
            inputs = [features.clone(), prototypes.clone()]
            inputs[position].requires_grad_()
            floats, _ = self.floats_and_patch(inputs[0], inputs[1], metric, backend)
            (grad,) = torch.autograd.grad(floats, inputs[position], weights)
            torch.testing.assert_close(grad, both[position], rtol=0, atol=0)

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("case", [SMALL, SMALL_PATCHES, Case(1, 1, 1, 1, 1)], ids=str)
    @interpreter_leaves_out("hundreds of launches")
    def test_gradcheck(self, case: Case, metric: str, backend: str) -> None:
        features, prototypes = (tensor.requires_grad_() for tensor in case.inputs(torch.float64))
        two_nearest = oracle.distance_map(features, prototypes, metric).flatten(2).sort(-1).values[..., :2]
        assert two_nearest.diff(dim=-1).abs().amin() > 1e-4 if two_nearest.shape[-1] > 1 else True
        assert torch.autograd.gradcheck(
            lambda x, p: tuple(self.floats_and_patch(x, p, metric, backend)[0]), (features, prototypes)
        )

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("case", EMPTY_CASES, ids=str)
    @interpreter_runs_for_every_op
    def test_no_images_or_no_prototypes(self, case: Case, metric: str, backend: str) -> None:
        features, prototypes = (tensor.requires_grad_() for tensor in case.inputs())
        floats, patch = self.floats_and_patch(features, prototypes, metric, backend)
        for output in floats:
            assert output.shape[:2] == (case.batch, case.prototypes)
        if patch is not None:
            assert patch.shape[:2] == (case.batch, case.prototypes)
        grads = torch.autograd.grad([output.sum() for output in floats], (features, prototypes))
        for grad, source in zip(grads, (features, prototypes), strict=True):
            torch.testing.assert_close(grad, torch.zeros_like(source), rtol=0, atol=0)

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("case", [Case(7, 33, 9, 8, 131), Case(3, 5, 9, 8, 65, (2, 3))], ids=str)
    def test_same_bits_on_every_run_and_for_any_number_of_threads(self, case: Case, metric: str, backend: str) -> None:
        features, prototypes = case.inputs()
        results = []
        for num_threads in (1, 2, 2, 1):
            torch.set_num_threads(num_threads)
            outputs = self.run(features, prototypes, metric, backend)
            weights = [torch.ones_like(output) for output in outputs if output.is_floating_point()]
            results.append([*outputs, *self.gradients(features, prototypes, metric, backend, weights)])
        for other in results[1:]:
            for one, again in zip(results[0], other, strict=True):
                assert torch.equal(one, again)

    @pytest.mark.parametrize("metric", METRICS)
    @interpreter_leaves_out("a large batch")
    def test_each_pair_has_its_own_answer_whatever_stands_beside_it(self, metric: str, backend: str) -> None:
        features, prototypes = Case(4, 19, 5, 5, 70).inputs()
        order = torch.randperm(70)
        whole = self.run(features, prototypes, metric, backend)
        permuted = self.run(features, prototypes[order], metric, backend)
        one_image = self.run(features[2:3], prototypes, metric, backend)
        for output, moved, single in zip(whole, permuted, one_image, strict=True):
            torch.testing.assert_close(output[:, order], moved, rtol=self.company, atol=0)
            torch.testing.assert_close(output[2:3], single, rtol=self.company, atol=0)

    @pytest.mark.parametrize("metric", METRICS)
    def test_double_backward_is_refused(self, metric: str, backend: str) -> None:
        features, prototypes = (tensor.requires_grad_() for tensor in SMALL.inputs())
        floats, _ = self.floats_and_patch(features, prototypes, metric, backend)
        (grad,) = torch.autograd.grad(sum(output.sum() for output in floats), features, create_graph=True)
        with pytest.raises(
            RuntimeError, match="double backward: the distances of protokern have first derivatives only"
        ):
            grad.square().sum().backward()

    @pytest.mark.parametrize("which", ["features", "prototypes"])
    def test_zero_vectors_are_at_cosine_distance_one_without_gradient(self, which: str, backend: str) -> None:
        features, prototypes = SMALL.inputs()
        (features if which == "features" else prototypes).zero_()
        distances = torch.ones(2, 7, 4, 3, dtype=torch.float64)
        floats, patch = self.floats_and_patch(features, prototypes, "cosine", backend)
        for output, wanted in zip(floats, self.expected(distances, patch, "cosine"), strict=True):
            torch.testing.assert_close(output, wanted.float(), rtol=1e-6, atol=1e-6)
        for grad in self.gradients(features, prototypes, "cosine", backend, [torch.ones_like(out) for out in floats]):
            torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=0)

    @pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
    def test_cosine_does_not_depend_on_length(self, scale: float, backend: str) -> None:
        features, prototypes = SMALL.inputs()
        plain, _ = self.floats_and_patch(features, prototypes, "cosine", backend)
        scaled, _ = self.floats_and_patch(features * scale, prototypes * scale, "cosine", backend)
        for one, other in zip(plain, scaled, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def assert_nearest(patch: Tensor, distances: Tensor, rtol: float, atol: float) -> None:
    """`patch` names a position whose true distance is the smallest one, up to rounding."""
    flat = distances.flatten(2)
    assert patch.dtype == torch.int64
    assert ((patch >= 0) & (patch < flat.shape[2])).all()
    at_patch = flat.gather(2, patch[..., None])[..., 0]
    torch.testing.assert_close(at_patch, flat.amin(2), rtol=rtol, atol=atol)
