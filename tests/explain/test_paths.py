"""The explanation of a tree is its decisions, in order, and the leaf where they end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from protokern.explain.collect import tree_nodes
from protokern.explain.framing import frame_explanation
from protokern.explain.local import explain_image
from protokern.models import ProtoTree
from protokern.report.figure import write_figure
from protokern.report.text import explanation_lines
from protokern.report.view import view_explanation
from protokern.results.run import TreeNode
from protokern.results.tables import explanation_table
from tests.explain.small_models import small_model


@pytest.fixture
def tree() -> ProtoTree:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1)
    )
    model = ProtoTree(backbone, 4, depth=3, prototype_dim=5, image_size=32)
    nn.init.normal_(model.prototype_layer.prototypes, 0.5, 0.3)
    model.last_layer.leaf_logits.copy_(torch.rand(8, 4) * 6)
    return model.eval()


def test_evidence_is_the_decisions_on_the_way_to_the_greedy_leaf(tree: ProtoTree) -> None:
    images = torch.rand(5, 3, 32, 32)
    for image in images:
        item = explain_image(tree, image, top=1)
        with torch.no_grad():
            output = tree(image[None])
        path = tree.decision_path(output, 0)
        first, *others = item.classes
        assert [match.prototype.index for match in first.evidence] == [step.prototype for step in path]
        for match, step in zip(first.evidence, path, strict=True):
            assert match.is_present == step.is_present == (step.probability > 0.5)
            chosen = step.probability if step.is_present else 1 - step.probability
            assert match.similarity == pytest.approx(chosen)
            assert match.points == pytest.approx(float(tree.influence(output, first.class_index)[0, step.prototype]))
        assert all(one.evidence == () for one in others)
        assert first.probability == pytest.approx(float(output.logits.exp().max()), rel=1e-5)
        assert item.end is not None
        leaf = int(tree.route(output, "greedy"))
        assert item.end.leaf == leaf
        assert item.end.share == pytest.approx(float(output.leaf_probabilities[0, leaf]))
        best = int(tree.leaf_probabilities()[leaf].argmax())
        assert item.end.classes[0][0] == best
        assert item.end.agrees == (best == item.predicted)


def test_the_way_is_told_on_the_page_in_the_terminal_and_in_json(tree: ProtoTree) -> None:
    item = explain_image(tree, torch.rand(3, 32, 32))
    lines = explanation_lines(item)
    assert len(lines) == 1 + 3 + 2
    assert all(("looks like prototype" in line) or ("has nothing like prototype" in line) for line in lines[1:4])
    assert lines[4].startswith(f"  then leaf {item.end.leaf}: class ")

    page, _ = view_explanation(item, "a tree")
    rows = page["item"]["first"]["reasons"]
    assert [row["points"] for row in rows] == [
        "goes right" if match.is_present else "goes left" for match in item.classes[0].evidence
    ]
    assert [bool(row["absent"]) for row in rows] == [not match.is_present for match in item.classes[0].evidence]
    assert [word for _, word, _ in page["reading"]][1:3] == ["Decision", "Leaf"]

    table = explanation_table(item)
    assert table["end"]["leaf"] == item.end.leaf
    assert [one["is_present"] for one in table["classes"][0]["prototypes"]] == [
        match.is_present for match in item.classes[0].evidence
    ]


def test_the_figure_of_a_tree_has_decisions_and_no_points(tree: ProtoTree, tmp_path: Path) -> None:
    item = explain_image(tree, torch.rand(3, 32, 32))
    write_figure(item, tmp_path / "why.svg")
    drawn = (tmp_path / "why.svg").read_text(encoding="utf-8")
    assert drawn.count("there with a probability of") == 3
    assert " points" not in drawn
    assert "similarity" not in drawn
    assert drawn.count("no part like") == sum(one.is_present is False for one in item.classes[0].evidence)
    assert f"whole tree: {100 * item.classes[0].probability:.1f}%" in drawn


def test_frames_are_sought_only_for_what_is_there(tree: ProtoTree) -> None:
    image = torch.rand(3, 32, 32)
    item = frame_explanation(tree, image, explain_image(tree, image))
    found = [match.view.sufficient is not None for match in item.classes[0].evidence]
    assert found == [match.is_present for match in item.classes[0].evidence]


def paths_below(
    nodes: tuple[TreeNode, ...], index: int, turns: dict[int, int]
) -> list[tuple[dict[int, int], TreeNode]]:
    """Every leaf below a node, with the turns (-1 absent, 1 present) that lead there from the root."""
    node = nodes[index]
    if node.prototype is None:
        return [(turns, node)]
    assert node.absent is not None
    assert node.present is not None
    left = paths_below(nodes, node.absent, turns | {node.prototype: -1})
    return left + paths_below(nodes, node.present, turns | {node.prototype: 1})


@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_nodes_follow_the_paths_also_of_a_pruned_tree(tree: ProtoTree, threshold: float) -> None:
    kept = tree.prune_leaves(threshold)
    classes = ("a", "b", "c", "d")
    nodes = tree_nodes(tree, classes)
    assert nodes is not None
    assert len(nodes) == 2 * len(kept.leaves) - 1
    paths = tree.last_layer.path.tolist()
    found = []
    for turns, leaf in paths_below(nodes, 0, {}):
        path = [turns.get(j, 0) for j in range(tree.num_prototypes)]
        found.append(path)
        probabilities = tree.leaf_probabilities()[paths.index(path)].tolist()
        assert leaf.classes == tuple(zip(classes, probabilities, strict=True))
    assert sorted(found) == sorted(paths)


def test_a_model_of_points_is_no_tree() -> None:
    model = small_model()
    assert tree_nodes(model, ("a", "b", "c", "d")) is None
    assert explain_image(model, torch.rand(3, 32, 32)).end is None
    with pytest.raises(NotImplementedError, match="reasons as points"):
        model.nodes()
