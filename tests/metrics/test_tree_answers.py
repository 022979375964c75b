"""What a tree would answer by one leaf, against a walk from the root in plain Python; how long its paths are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from protokern.metrics import measure
from protokern.models import ProtoTree
from tests.explain.small_models import small_model

DEPTH, CLASSES, IMAGES = 3, 3, 12


def tree() -> ProtoTree:
    torch.manual_seed(3)
    model = ProtoTree(nn.Identity(), CLASSES, depth=DEPTH, prototype_dim=4, in_channels=4, image_size=2)
    model.last_layer.leaf_logits.copy_(torch.randn(2**DEPTH, CLASSES))
    with torch.no_grad():
        model.prototype_layer.prototypes.copy_(torch.rand(2**DEPTH - 1, 4))
    return model.eval()


def walk(present: list[float]) -> tuple[int, list[float]]:
    """The leaf of the more probable sides, and the probability of every leaf, of a complete tree."""
    node, leaf = 0, 0
    for _ in range(DEPTH):
        side = int(present[node] > 0.5)
        node, leaf = 2 * node + 1 + side, 2 * leaf + side
    reach = []
    for end in range(2**DEPTH):
        at, probability = 0, 1.0
        for level in reversed(range(DEPTH)):
            side = end >> level & 1
            probability *= present[at] if side else 1 - present[at]
            at = 2 * at + 1 + side
        reach.append(probability)
    return leaf, reach


def answers(model: ProtoTree, image: Tensor) -> tuple[int, int, int]:
    """By all leaves, by the path, by the likeliest leaf."""
    with torch.no_grad():
        distance = model(image[None]).min_distances[0].double()
    leaf, reach = walk([math.exp(-math.sqrt(one + 1e-14)) for one in distance.tolist()])
    leaves = model.last_layer.leaf_logits.double().softmax(dim=1)
    mixture = torch.tensor(reach, dtype=torch.float64) @ leaves
    likeliest = reach.index(max(reach))
    return int(mixture.argmax()), int(leaves[leaf].argmax()), int(leaves[likeliest].argmax())


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(IMAGES, 4, 2, 2, generator=generator), torch.arange(IMAGES) % CLASSES


def test_accuracies_and_agreement_of_a_tree(images: tuple[Tensor, Tensor]) -> None:
    model, (pixels, labels) = tree(), images
    (result,) = measure(model, [(pixels[:7], labels[:7]), (pixels[7:], labels[7:])], IMAGES, only=["accuracy"])
    found = [answers(model, image) for image in pixels]
    by_all, by_path, by_likeliest = (torch.tensor(one) for one in zip(*found, strict=True))
    assert not torch.equal(by_all, by_path)
    assert not torch.equal(by_path, by_likeliest)
    wanted = {
        "right answers": by_all == labels,
        "right by the path": by_path == labels,
        "the path agrees": by_path == by_all,
        "right by the likeliest leaf": by_likeliest == labels,
        "the likeliest leaf agrees": by_likeliest == by_all,
    }
    for name, is_true in wanted.items():
        assert result.estimates[name].value == pytest.approx(float(is_true.double().mean())), name


def test_paths_of_a_pruned_tree(images: tuple[Tensor, Tensor]) -> None:
    """Without the leaves 4 to 7 but one, the root leads to it at once or on to a complete tree of depth 2."""
    model, (pixels, labels) = tree(), images
    certain = 20.0 * torch.eye(CLASSES)[torch.arange(2**DEPTH) % CLASSES]
    certain[5:] = 0
    model.last_layer.leaf_logits.copy_(certain)
    model.prune_leaves(0.5)
    with torch.no_grad():
        activations = model(pixels).activations
    root = model.last_layer.path.abs().sum(dim=0).argmax()
    lengths = torch.where(activations[:, root] > 0.5, 1, 3).double()
    assert set(lengths.tolist()) == {1.0, 3.0}
    (result,) = measure(model, [(pixels, labels)], IMAGES, only=["size"])
    found = {name: number.value for name, number in result.estimates.items()}
    assert found["leaves"] == 5
    assert found["prototypes"] == 4
    assert found["decisions on the path"] == pytest.approx(float(lengths.mean()))
    assert (found["shortest path"], found["longest path"]) == (1, 3)


def test_other_models_have_no_such_numbers() -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    results = measure(small_model(), [(pixels, torch.zeros(2, dtype=torch.int64))], 2, only=["accuracy", "size"])
    names = {name for result in results for name in result.estimates}
    assert not {"right by the path", "the path agrees", "leaves", "longest path"} & names
