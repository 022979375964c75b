"""Which tests of the battery Triton's interpreter runs. It takes milliseconds per program, so it runs some of them.

Left out is what the interpreter cannot tell: its products of bfloat16 numbers are wrong, its TF32 is float32, and its
minima treat NaN in their own way. Those need a GPU, or the rounding simulated on the CPU (rounding.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .cases import EMPTY_CASES, SMALL, SMALL_PATCHES, Case

# Modules whose ops have Triton kernels.
MODULES = frozenset(
    {
        "test_bad_input",
        "test_distance_at",
        "test_distance_map",
        "test_mean_activation",
        "test_min_distance",
        "test_patch_weight",
        "test_patch_weight_edges",
        "test_prototype_pool",
        "test_similarity",
        "test_topk_pool",
    }
)
# One of everything: a single number, primes beyond one tile in every direction, a grid of one row, larger patches.
CASES = (
    Case(1, 1, 1, 1, 1),
    SMALL,
    Case(2, 17, 5, 13, 49),
    Case(5, 8, 1, 31, 3),
    SMALL_PATCHES,
    Case(1, 4, 3, 3, 5, (3, 3)),
    Case(2, 5, 4, 3, 7, (1, 1)),
    *EMPTY_CASES,
)
# Float64 shares the masks and offsets of float32; it runs where a case is cheap.
CASES_IN_FLOAT64 = (SMALL, SMALL_PATCHES)
# Modules whose kernels take seconds per case: they share loads and offsets with the others.
SLOW_MODULES = frozenset({"test_mean_activation", "test_prototype_pool", "test_topk_pool"})
SLOW_MODULE_CASES = (SMALL, SMALL_PATCHES, Case(2, 17, 5, 13, 49), *EMPTY_CASES)
# The kernel of min_distance with the similarity in its last step. What that adds is in the values, the gradients and
# the activations; ties, copies, layouts and what is not finite are those of min_distance.
SHARED_KERNEL = {
    "test_prototype_pool": ("values_and_gradients", "no_images", "activation", "similarit", "log_of_a_large")
}
# Of the tests with weights of the patches. The other ops search with the kernel of min_distance or weigh what another
# kernel gave; tests/kernels/triton tries the weights on every path of the kernels.
WEIGHED_OPS = ("min_distance", "topk_pool")
WEIGHED_CASES = (SMALL, SMALL_PATCHES, *EMPTY_CASES)
WEIGHED_TOPK = ("values_and_gradients", "ones_give", "no_weight_at_all")
# Of the tests of wrong and strange input, those that launch kernels; the same ops' loads are those of the others.
SLOW_OPS = frozenset({"mean_activation", "topk_pool"})
LAUNCHING = ("strange_memory", "what_overlaps", "offsets_beyond_32_bits", "what_is_not_finite_stays")
# By a part of the name of a test.
SLOW = {
    "all_patches_are_the_sorted_map": "long lists",
    "equal_patches_come_in_order": "every pair is in doubt",
    "log_of_any_distance_and_epsilon": "one formula",
    "one_patch_is_prototype_pool": "another op's cases",
    "no_tensor_of_all_distances_in_memory": "a large batch",
    "any_shape_layout_and_kind_of_values": "a hundred launches",
    "each_pair_has_its_own_answer": "a large batch",
    "gradcheck": "hundreds of launches",
}


# Values of parameters that the interpreter runs of a test, by a part of its name, and why they are enough.
SOME = {
    "a_weight_that_is_none": ("bad", (1 + 1e-6,), "the others are told apart in tests/kernels/triton"),
    "weights_of_any_strides": ("layout", ("transposed",), "weights are packed before a kernel sees them"),
    "the_smallest_weights": ("tiny", (1e-30,), "the arithmetic is one"),
    "where_all_are_alike": ("size", (1, 7, 300), "one patch, a part of a tile and many tiles are enough"),
    "non_finite_prototype": ("which", (50,), "any prototype will do"),
    "gradient_of_one_input_alone": (
        "metric",
        ("sqeuclidean",),
        "which gradients are wanted is no matter of the metric",
    ),
    "same_numbers_as_the_map": ("dtype", (torch.float32,), "float64 has one path, which the values take"),
    "close_to_their_prototype": ("size", (1e-5,), "the nearer patches are the harder ones"),
    "exact_copies_have_the_full_similarity": ("grid", ((1, 2),), "every pair is in doubt"),
}


def reason_left_out(module: str, test: str, parameters: Mapping[str, object]) -> str:
    """Why the interpreter does not run `test` of `module` with `parameters`; empty when it does."""
    if module not in MODULES:
        return "no Triton kernel"
    for part, reason in SLOW.items():
        if part in test:
            return reason
    if module in SHARED_KERNEL and not any(part in test for part in SHARED_KERNEL[module]):
        return "the kernel of min_distance"
    for part, (name, values, reason) in SOME.items():
        if part in test and parameters.get(name, values[0]) not in values:
            return reason
    if "any_strides" in test and "of_features" in parameters and not _is_new_layout(parameters):
        return "the offsets are those of another case"
    if "strange_memory" in test and parameters["metric"] == "cosine":
        return "the offsets are those of the other metric"
    if module.startswith("test_patch_weight"):
        if parameters.get("op", "min_distance") not in WEIGHED_OPS:
            return "the kernel of another op"
        if "any_number_of_threads" in test or parameters.get("case", SMALL) not in WEIGHED_CASES:
            return "a slow case"
        if parameters.get("op") == "topk_pool" and not any(part in test for part in WEIGHED_TOPK):
            return "the k nearest take part in some"
    if parameters.get("op") in SLOW_OPS and any(part in test for part in LAUNCHING):
        return "a slow case"
    dtype = parameters.get("dtype", torch.float32)
    if dtype not in (torch.float32, torch.float64):
        return "half types are for a GPU"
    case = parameters.get("case", SMALL)
    if module in SLOW_MODULES and (case not in SLOW_MODULE_CASES or "of_features" in parameters):
        return "a slow case"
    if case not in (CASES if dtype == torch.float32 else CASES_IN_FLOAT64):
        return "a large case"
    return ""


def _is_new_layout(parameters: Mapping[str, object]) -> bool:
    """Every pair of layouts for one metric and patches of one cell, one pair for larger patches."""
    if parameters["case"] == SMALL:
        return parameters.get("metric", "sqeuclidean") == "sqeuclidean"
    pair = tuple(parameters.get(name) for name in ("of_features", "of_prototypes", "metric"))
    return pair == ("channels_last", "transposed", "cosine")
