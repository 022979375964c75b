"""The peers compute what they are said to compute, so that a comparison with them means something."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from benchmarks.ops.answers import WrongAnswerError, bound, check_answer, distances_at, exact_answer
from benchmarks.ops.cases import Case, Inputs, make_inputs
from benchmarks.ops.libraries import LIBRARIES, MissingPeerError
from benchmarks.ops.ops import OPS, activate
from benchmarks.ops.peers import NEAREST_ONLY, TORCH_PEERS, bare_product, product_and_minimum
from benchmarks.ops.providers import (
    ALL_PEERS,
    build_providers,
    forward_only,
    library_provider,
    make_call,
    offered,
    our_provider,
    torch_provider,
    unsuited,
)

CASE = Case(name="test", images=3, depth=7, height=4, width=5, prototypes=6)
NHWC = replace(CASE, layout="channels_last")
DISTANCE = OPS["min_distance"]


def map_by_hand(inputs: Inputs) -> torch.Tensor:
    patches = inputs.features.detach().double().flatten(2).mT  # (B, N, D)
    differences = patches[:, :, None] - inputs.prototypes.detach().double()  # (B, N, P, D)
    return differences.square().sum(-1).mT  # (B, P, N)


def op_by_hand(inputs: Inputs, op: str) -> torch.Tensor:
    distances = map_by_hand(inputs)
    if op == "min_distance":
        return distances.amin(2)
    if op == "prototype_pool":
        return -distances.amin(2)
    if op == "mean_activation":
        return -distances.mean(2)
    return -distances.sort(2).values[:, :, :5].mean(2)


def suited(op: str, peer: str) -> bool:
    return not unsuited(OPS[op], "fwd", peer)


@pytest.mark.parametrize("case", [CASE, NHWC], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("peer", TORCH_PEERS)
@pytest.mark.parametrize("op", OPS)
def test_a_peer_computes_the_op(op: str, peer: str, case: Case) -> None:
    if not suited(op, peer):
        assert peer in NEAREST_ONLY
        return
    inputs = make_inputs(case, requires_grad=False)
    found = torch_provider(OPS[op], "fwd", peer, "fp32", "cpu").bind(inputs, "linear")()
    torch.testing.assert_close(found.double(), op_by_hand(inputs, op), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("op", OPS)
def test_the_exact_answers_are_those_of_the_definition(op: str) -> None:
    inputs = make_inputs(CASE, requires_grad=False)
    torch.testing.assert_close(exact_answer(inputs, OPS[op]), op_by_hand(inputs, op), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("peer", TORCH_PEERS)
def test_a_peer_has_the_gradient_of_the_smallest_distance(peer: str) -> None:
    inputs = make_inputs(CASE, requires_grad=True)
    with torch.no_grad():  # no exact copies: the clamp and the root have no gradient there
        inputs.prototypes.add_(0.25)
    value = TORCH_PEERS[peer](inputs.features, inputs.prototypes, DISTANCE, "log")
    found = torch.autograd.grad(value, (inputs.features, inputs.prototypes), inputs.grad)
    exact = make_inputs(CASE, requires_grad=True)
    with torch.no_grad():
        exact.prototypes.add_(0.25)
    patches = exact.features.flatten(2).mT  # (B, N, D)
    distances = (patches[:, :, None] - exact.prototypes).square().sum(-1)  # (B, N, P)
    nearest = distances.argmin(1, keepdim=True)  # (B, 1, P)
    expected = torch.autograd.grad(distances.gather(1, nearest)[:, 0], (exact.features, exact.prototypes), exact.grad)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_products_are_cut_to_the_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(CASE, requires_grad=False)
    whole = TORCH_PEERS["chunked"](inputs.features, inputs.prototypes, DISTANCE, "log")
    monkeypatch.setattr("benchmarks.ops.peers.SCRATCH_BYTES", 1)
    torch.testing.assert_close(TORCH_PEERS["chunked"](inputs.features, inputs.prototypes, DISTANCE, "log"), whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning")  # of torch, inside torch.compile
def test_the_compiled_peer_computes_the_op() -> None:
    inputs = make_inputs(CASE, requires_grad=False)
    check_answer(
        torch_provider(DISTANCE, "fwd", "compile", "fp32", "cpu"), inputs, DISTANCE, exact_answer(inputs, DISTANCE)
    )


def test_a_peer_in_bfloat16_is_within_its_bound_and_not_exact() -> None:
    inputs = make_inputs(CASE, requires_grad=False)
    provider = torch_provider(DISTANCE, "fwd", "matmul", "bf16", "cpu")
    exact = exact_answer(inputs, DISTANCE)
    check_answer(provider, inputs, DISTANCE, exact)
    with pytest.raises(WrongAnswerError, match=r"matmul fp32: must be within"):
        check_answer(replace(provider, precision="fp32"), inputs, DISTANCE, exact)


def test_the_bound_grows_with_the_rounding() -> None:
    inputs = make_inputs(CASE, requires_grad=False)
    assert bound(inputs, "fp32") < bound(inputs, "tf32") / 100 < bound(inputs, "bf16") / 100


def test_a_wrong_answer_is_found() -> None:
    inputs = make_inputs(CASE, requires_grad=False)
    good = torch_provider(DISTANCE, "fwd", "cdist", "fp32", "cpu")
    exact = exact_answer(inputs, DISTANCE)
    check_answer(good, inputs, DISTANCE, exact)
    shifted = replace(good, bind=lambda given, activation: lambda: good.bind(given, activation)() + 1e-3)
    with pytest.raises(WrongAnswerError, match=r"cdist fp32: must be within .* of the float64 distances; got 0\.001"):
        check_answer(shifted, inputs, DISTANCE, exact)
    nothing = replace(good, bind=lambda given, activation: lambda: good.bind(given, activation)() * torch.nan)
    with pytest.raises(WrongAnswerError, match="got nan"):
        check_answer(nothing, inputs, DISTANCE, exact)


def test_who_only_says_which_patch_is_checked_by_its_distance() -> None:
    inputs = make_inputs(CASE, requires_grad=False)
    nearest = map_by_hand(inputs).argmin(2)
    torch.testing.assert_close(distances_at(inputs, nearest.int()), exact_answer(inputs, DISTANCE))
    provider = replace(
        library_provider(DISTANCE, "flash-kmeans", "fp32"), bind=lambda given, activation: lambda: nearest
    )
    check_answer(provider, inputs, DISTANCE, exact_answer(inputs, DISTANCE))
    wrong = replace(provider, bind=lambda given, activation: lambda: (nearest + 1) % 20)
    with pytest.raises(WrongAnswerError):
        check_answer(wrong, inputs, DISTANCE, exact_answer(inputs, DISTANCE))


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_answers_right_or_says_what_is_missing(name: str) -> None:
    inputs = make_inputs(CASE, requires_grad=False)
    package = {"flash-kmeans": "flash_kmeans"}.get(name, name)
    provider = library_provider(DISTANCE, name, "fp32")
    if find_spec(package) is None:
        with pytest.raises(MissingPeerError, match=rf"{package} is not installed \(pip install '\.\[bench\]'\)"):
            make_call(provider, inputs)
        return
    check_answer(provider, inputs, DISTANCE, exact_answer(inputs, DISTANCE))


def test_whatever_breaks_a_peer_is_told() -> None:
    def bind(given: Inputs, activation: str) -> None:
        raise OSError("no such compiler\nand more")

    provider = replace(our_provider(DISTANCE, "fwd", "native", "fp32"), bind=bind)
    with pytest.raises(MissingPeerError, match=r"^OSError: no such compiler$"):
        make_call(provider, make_inputs(CASE, requires_grad=False))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("mode", ["fwd", "full"])
@pytest.mark.parametrize("op", OPS)
def test_every_peer_takes_part_or_is_named_with_a_reason(op: str, mode: str, device: str) -> None:
    precisions = ["fp32", "tf32", "bf16"]
    providers, missing = build_providers(OPS[op], mode, device, ["native"], ALL_PEERS, precisions)
    named = {provider.name for provider in providers} | {one.what.split(",")[0] for one in missing}
    assert named == {"native", *ALL_PEERS}
    assert [provider.precision for provider in providers if provider.name == "native"] == precisions
    assert all(one.reason for one in missing)


def test_the_original_runs_with_and_without_tf32_on_cuda() -> None:
    assert offered("original", "cuda") == ("tf32", "fp32")
    assert offered("original", "cpu") == ("fp32",)
    assert offered("compile", "cuda") == ("tf32", "bf16")


def test_the_bare_product_is_the_product() -> None:
    inputs = make_inputs(CASE, requires_grad=False)
    patches = inputs.features.permute(0, 2, 3, 1).reshape(-1, CASE.depth)
    product = patches @ inputs.prototypes.T
    torch.testing.assert_close(bare_product(inputs.features, inputs.prototypes, "fp32")(), product)
    smallest = product.view(CASE.images, -1, CASE.prototypes).amin(1)
    torch.testing.assert_close(product_and_minimum(inputs.features, inputs.prototypes, "fp32")(), smallest)
    assert bare_product(inputs.features, inputs.prototypes, "bf16")().dtype == torch.bfloat16


def test_the_log_activation_of_an_exact_copy() -> None:
    assert float(activate(torch.zeros(()), "log")) == pytest.approx(9.2103, abs=1e-4)
    assert float(activate(torch.ones(()), "linear")) == -1


def test_half_of_the_prototypes_are_patches_and_the_same_for_a_seed() -> None:
    first, second = make_inputs(CASE, requires_grad=False), make_inputs(CASE, requires_grad=False)
    torch.testing.assert_close(first.features, second.features, atol=0, rtol=0)
    assert int((map_by_hand(first).amin((0, 2)) == 0).sum()) == CASE.prototypes // 2
    assert not torch.equal(make_inputs(CASE, requires_grad=False, seed=1).features, first.features)


def test_a_forward_pass_keeps_no_graph() -> None:
    inputs = make_inputs(CASE, requires_grad=True)
    assert not forward_only(lambda features, prototypes: features.sum() + prototypes.sum(), inputs)().requires_grad
