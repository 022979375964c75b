"""A search in any parts, batches and order equals the plain loops over everything, and equals itself bit for bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from protokern.prune import apply_prune, prune_prototypes
from protokern.push import apply_push, push_prototypes
from protokern.search import NearestPatches, find_nearest_patches, merge_nearest
from tests.search.plain import bare_model, loader_of, plain_search


def batches_of(images, labels, index, size):
    return [(images[some], labels[some], some) for some in index.split(size)]


def draw_parts(draw, count):
    """Indices of every part, in any order, none empty."""
    order = torch.tensor(draw(st.permutations(range(count))))
    cuts = sorted(draw(st.sets(st.integers(1, count - 1), max_size=3))) if count > 1 else []
    return list(order.tensor_split(cuts))


@st.composite
def options(draw):
    return {
        "own_class": draw(st.booleans()),
        "patches": draw(st.sampled_from(["best", "all"])),
        "distinct": draw(st.booleans()),
    }


def assert_same(first: NearestPatches, second: NearestPatches) -> None:
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        assert type(one) is type(other)
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype
            assert torch.equal(one, other), field.name
        else:
            assert one == other


@settings(max_examples=120)
@given(data=st.data(), chosen=options(), size=st.sampled_from([(), (1, 2), (2, 2)]))
def test_parts_in_any_order_equal_the_plain_loops(data, chosen, size):
    draw = data.draw
    classes, per_class, count = (draw(st.integers(1, high)) for high in (3, 2, 7))
    k = draw(st.sampled_from([1, 2, 3, 9]))  # more than 8 of one image are found in another way
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    highest = draw(st.integers(1, 2))
    # Whole numbers: distances are exact, and ties and equal patches are common.
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    images = torch.randint(0, highest + 1, (count, 2, 3, 2), generator=generator).to(dtype)
    prototypes = torch.randint(0, highest + 1, (classes * per_class, 2, *size), generator=generator).to(dtype)
    labels = torch.randint(0, classes, (count,), generator=generator)
    model = bare_model(prototypes, classes)
    # Prototypes of one class, of several and of none.
    model.class_identity.copy_(torch.randint(0, 2, model.class_identity.shape, generator=generator))
    parts = [
        find_nearest_patches(
            model, batches_of(images, labels, part, draw(st.integers(1, 4))), k, vectors=True, **chosen
        )
        for part in draw_parts(draw, count)
    ]
    merged = merge_nearest(parts, distinct=chosen["distinct"])

    is_of_class = model.class_identity > 0 if chosen["own_class"] else None
    expected = plain_search(
        prototypes,
        images,
        labels.tolist(),
        is_of_class,
        k,
        all_patches=chosen["patches"] == "all",
        distinct=chosen["distinct"],
    )
    got = torch.stack([merged.distance.double(), merged.image, merged.patch], dim=-1).tolist()
    assert got == [[list(entry) for entry in entries] for entries in expected]
    whole = find_nearest_patches(model, loader_of(images, labels, 3), k, vectors=True, **chosen)
    assert_same(merged, whole)


@settings(max_examples=60)
@given(
    data=st.data(),
    chosen=options(),
    metric=st.sampled_from(["sqeuclidean", "cosine"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    size=st.sampled_from([(), (2, 2)]),
)
def test_any_parts_and_batches_give_the_same_bits(data, chosen, metric, dtype, size):
    draw = data.draw
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    images = torch.randn(12, 19, 4, 3, generator=generator).to(dtype)
    images[5:8] = images[:3]
    images[9, :, 1] = images[2, :, 0]
    prototypes = torch.randn(9, 19, *size, generator=generator).to(dtype)
    prototypes[::2] = images[:5, :, :2, :2] if size else images[:5, :, 0, 0]
    labels = torch.randint(0, 3, (12,), generator=generator)
    model = bare_model(prototypes, 3)
    model.prototype_layer.metric = metric
    whole = find_nearest_patches(model, loader_of(images, labels, 12), 5, vectors=True, **chosen)
    parts = [
        find_nearest_patches(
            model, batches_of(images, labels, part, draw(st.integers(1, 6))), 5, vectors=True, **chosen
        )
        for part in draw_parts(draw, 12)
    ]
    merged = merge_nearest(parts, distinct=chosen["distinct"])
    assert_same(merged, whole)
    if len(parts) > 1:
        later = merge_nearest(parts[1:], distinct=chosen["distinct"])
        assert_same(merge_nearest([later, parts[0]], distinct=chosen["distinct"]), whole)


def birds_of(count, classes=3):
    images = torch.randn(count, 3, 4, 4)
    return images, torch.arange(count) % classes


def halves(model, images, labels, **chosen):
    """The search in two parts: the second says where it begins."""
    cut = len(images) // 2
    return [
        find_nearest_patches(model, loader_of(images[:cut], labels[:cut], 2), **chosen),
        find_nearest_patches(model, loader_of(images[cut:], labels[cut:], 2), first_image=cut, **chosen),
    ]


def test_push_of_parts_is_the_push():
    images, labels = birds_of(9)
    models = [bare_model(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), 3) for _ in range(2)]
    whole = push_prototypes(models[0], loader_of(images, labels, 4))
    parts = halves(models[1], images, labels, own_class=True, vectors=True)
    assert_same(apply_push(models[1], merge_nearest(parts[::-1])), whole)
    assert torch.equal(models[0].prototype_layer.prototypes, models[1].prototype_layer.prototypes)


def test_prune_of_parts_is_the_prune():
    images, labels = birds_of(20)
    models = [bare_model(torch.randn(9, 3, generator=torch.Generator().manual_seed(1)), 3) for _ in range(2)]
    whole = prune_prototypes(models[0], loader_of(images, labels, 4))
    assert len(whole.pruned)
    assert_same(apply_prune(models[1], merge_nearest(part for part in halves(models[1], images, labels, k=6))), whole)
    assert torch.equal(models[0].prototype_layer.prototypes, models[1].prototype_layer.prototypes)


def test_only_distances_to_own_classes_are_computed(monkeypatch):
    images, labels = torch.randn(5, 3, 2, 2), torch.tensor([2, 0, 2, 1, 0])
    model = bare_model(torch.randn(6, 3), 3)
    pairs = []
    search = model.prototype_layer.min_distance

    def counted(features, prototypes=None, *, exact=False):
        pairs.append((len(features), prototypes.tolist()))
        return search(features, prototypes, exact=exact)

    monkeypatch.setattr(model.prototype_layer, "min_distance", counted)
    find_nearest_patches(model, [(images, labels)], own_class=True)
    assert pairs == [(2, [0, 1]), (1, [2, 3]), (2, [4, 5])]


def test_a_loader_may_shuffle_if_it_says_which_images():
    images, labels = birds_of(7)
    model = bare_model(torch.randn(6, 3), 3)
    loader = DataLoader(TensorDataset(images, labels, torch.arange(7)), batch_size=2, shuffle=True)
    ordered = find_nearest_patches(model, loader_of(images, labels, 7), 3, vectors=True)
    assert_same(find_nearest_patches(model, loader, 3, vectors=True), ordered)


def test_the_search_is_exact_whatever_the_precision_of_products():
    images, labels = torch.randn(6, 32, 5, 5) + 100, torch.arange(6) % 2
    model = bare_model(torch.randn(4, 32) + 100, 2)
    exact = find_nearest_patches(model, loader_of(images, labels, 6), 3)
    model.prototype_layer.precision = "bf16"
    torch.set_float32_matmul_precision("medium")
    try:
        assert_same(find_nearest_patches(model, loader_of(images, labels, 2), 3), exact)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_class_without_prototypes_is_not_searched():
    model = bare_model(torch.randn(4, 3), 2)
    model.class_identity[2:] = 0
    nearest = find_nearest_patches(model, [(torch.randn(2, 3, 2, 2), torch.tensor([1, 1]))], own_class=True)
    assert nearest.image.tolist() == [[-1]] * 4
    assert nearest.grid == (2, 2)


def part_of(images=2, size=2, k=1, vectors=False, first_image=0):
    data = torch.rand(images, 2, size, size, generator=torch.Generator().manual_seed(0))
    model = bare_model(torch.zeros(2, 2), 2)
    labels = torch.zeros(images, dtype=torch.int64)
    return find_nearest_patches(model, [(data, labels)], k, vectors=vectors, first_image=first_image)


@pytest.mark.parametrize(
    ("parts", "distinct", "message"),
    [
        ([], False, "parts: must hold at least one result; got none. Search at least one part of the data set."),
        (
            [part_of(), part_of(first_image=2, k=2)],
            False,
            r"parts: must be of the same prototypes, k and grid; got \(2, 1\) on \(2, 2\) and \(2, 2\) on \(2, 2\). S",
        ),
        (
            [part_of(), part_of(first_image=2, size=3)],
            False,
            r"parts: must be of the same prototypes, k and grid; got \(2, 1\) on \(2, 2\) and \(2, 1\) on \(3, 3\). S",
        ),
        (
            [part_of(), part_of(first_image=2, vectors=True)],
            False,
            r"parts: must all have vectors, or none of them; got 1 of 2 without. Search with vectors=True.",
        ),
        (
            [part_of(), part_of(first_image=2)],
            True,
            r"parts: must all have vectors to be merged with distinct=True; got 2 of 2 without.",
        ),
        (
            [part_of(first_image=1), part_of(first_image=1)],
            False,
            r"parts: must have each image in one part only; image [12] is in two. Give every part its own images, and",
        ),
    ],
    ids=["none", "k", "grid", "some-vectors", "no-vectors", "image-twice"],
)
def test_parts_that_do_not_fit(parts, distinct, message):
    with pytest.raises(ValueError, match=message):
        merge_nearest(parts, distinct=distinct)


def test_a_push_takes_patches_of_own_classes_only():
    model = bare_model(torch.tensor([[5.0], [1.0]]), 2)
    images = torch.tensor([5.0, 1.0]).reshape(2, 1, 1, 1)
    nearest = find_nearest_patches(model, [(images, torch.tensor([1, 0]))], vectors=True)  # of any class
    message = r"nearest: must be of images of each prototype's classes; prototype 0 has one of class 1\. Search with"
    with pytest.raises(ValueError, match=message):
        apply_push(model, nearest)
    assert model.prototype_layer.prototypes.tolist() == [[5], [1]]


def test_what_is_applied_must_fit_the_model():
    model = bare_model(torch.zeros(4, 2), 2)
    with pytest.raises(ValueError, match=r"nearest: must have the vectors of its patches; it has none. Search with v"):
        apply_push(model, part_of())
    with pytest.raises(
        ValueError, match=r"nearest: must be of the model's 4 prototypes; got 2. Search with this model"
    ):
        apply_push(model, part_of(vectors=True))
    with pytest.raises(
        ValueError, match=r"nearest: must be of the model's 4 prototypes; got 2. Search with this model"
    ):
        apply_prune(model, part_of(k=6))
    with pytest.raises(ValueError, match=r"threshold: must be in 0 .. k = 2; got 3."):
        apply_prune(model, part_of(k=2))
