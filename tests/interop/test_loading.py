"""Released networks as models of protokern: the same logits for the same images, from every kind of file."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from protokern.backbones import build_backbone
from protokern.errors import CheckpointError, ConfigError
from protokern.interop import load_released

from . import released_programs as programs
from .comparing import CLASSES, SIZE, TOLERANCE, Case, check_same, scores
from .programs import PPNet, PrototypeChooser
from .released_programs import SmallResNet, SmallVGG, settle


def tiny_body() -> nn.Module:
    return build_backbone("tiny", weights="none").body


def hard_pool(**options: Any) -> PrototypeChooser:
    """A pool at the scale at which the program evaluates it after its last push."""
    net = PrototypeChooser(tiny_body(), 9, 3, CLASSES, 16, 128, **options)
    net.proto_presence.data *= 1e4
    net.prototype_vectors.data[8] = 0
    net.proto_presence.data[:, 8] = -1e4
    return net


def of_inference(net: nn.Module, x: Tensor) -> Tensor:
    return net(x, inference=True)[2]


CASES: dict[str, Case] = {
    "protopnet": Case(lambda: PPNet(tiny_body(), (8, 16, 1, 1), CLASSES, 128), "tiny"),
    "protopnet resnet": Case(lambda: PPNet(SmallResNet(), (8, 16, 1, 1), CLASSES, 512), "resnet-basic-1-1-1-1"),
    "protopnet vgg": Case(lambda: PPNet(SmallVGG(), (8, 16, 1, 1), CLASSES, 16), "vgg-8-M-16-M"),
    "protopnet vgg_bn": Case(
        lambda: PPNet(SmallVGG((8, "M", 8, 16, "M"), norms=True), (8, 16, 1, 1), CLASSES, 16), "vgg_bn-8-M-8-16-M"
    ),
    "protopnet large prototypes": Case(lambda: PPNet(tiny_body(), (8, 16, 2, 2), CLASSES, 128), "tiny"),
    "tesnet": Case(
        lambda: programs.TESNet(tiny_body(), (8, 16, 1, 1), CLASSES, 128), "tiny", options={"system": "tesnet"}
    ),
    "protopool": Case(hard_pool, "tiny"),
    "protopool without last layer": Case(lambda: hard_pool(use_last_layer=False), "tiny"),
    "pipnet": Case(
        lambda: programs.PIPNet(SmallResNet(strides=(1, 2, 1, 1)), 512, CLASSES, 20),
        "resnet-basic-1-1-1-1-stride8",
        of_inference,
        scores,
    ),
    "pipnet with a bias": Case(
        lambda: programs.PIPNet(tiny_body(), 128, CLASSES, 20, bias=True), "tiny", of_inference, scores
    ),
    "pipnet without add-on": Case(lambda: programs.PIPNet(tiny_body(), 128, CLASSES), "tiny", of_inference, scores),
}
WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "state dict": lambda net: net.state_dict(),
    "module": lambda net: net,
    "training": lambda net: {"model_state_dict": nn.DataParallel(net).state_dict(), "epoch": 3},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_released_program(tmp_path: Path, name: str, wrapping: str) -> None:
    case = CASES[name]
    released = settle(case.make())
    torch.save(WRAPPED[wrapping](released), tmp_path / "net.pth")
    net = load_released(tmp_path / "net.pth", image_size=SIZE, **case.options)
    assert net.config.model.backbone == case.backbone
    assert net.difference < TOLERANCE
    assert not net.model.training
    check_same(net, released, case)


TREE = Case(
    lambda: programs.ProtoTree(tiny_body(), 128, CLASSES, 3, 16),
    "tiny",
    lambda net, x: net(x),
    lambda output: output.logits.exp(),
)


def write_tree(folder: Path, net: nn.Module, beside: str) -> Path:
    """A tree as the released program saves it: its state dict, and what says which branch has which prototype."""
    torch.save(net.state_dict(), folder / "model_state.pth")
    if beside == "model.pth":
        torch.save(net, folder / "model.pth")
    elif beside == "tree.pkl":
        (folder / "tree.pkl").write_bytes(pickle.dumps(net))
    return folder / "model_state.pth"


@pytest.mark.parametrize("is_pruned", [False, True], ids=["whole", "pruned"])
@pytest.mark.parametrize("beside", ["model.pth", "tree.pkl"])
def test_a_tree_asks_for_the_prototypes_that_the_program_gave_its_branches(
    tmp_path: Path, beside: str, is_pruned: bool
) -> None:
    released = settle(TREE.make())
    if is_pruned:
        released.prune_left_below(released._root)
    path = write_tree(tmp_path, released, beside)
    net = load_released(path, image_size=SIZE)
    assert net.model.num_prototypes == (5 if is_pruned else 7)
    assert f"the prototypes of the branches are as {beside} says" in net.notes
    check_same(net, released, TREE)
    check_same(load_released(tmp_path, image_size=SIZE), released, TREE)


def test_a_tree_takes_a_map_of_its_branches(tmp_path: Path) -> None:
    released = settle(TREE.make())
    path = write_tree(tmp_path, released, "nothing")

    def walk(place: str, node: Any) -> dict[str, int]:
        if isinstance(node, programs.Leaf):
            return {}
        below = (walk(f"{place}.{step}".strip("."), getattr(node, step)) for step in "lr")
        return {place: released._out_map[node]} | next(below) | next(below)

    check_same(load_released(path, image_size=SIZE, tree_map=walk("", released._root)), released, TREE)


def test_a_state_dict_of_a_tree_alone_is_refused(tmp_path: Path) -> None:
    path = write_tree(tmp_path, TREE.make(), "nothing")
    with pytest.raises(CheckpointError, match="which branch has which prototype, and a state dict does not"):
        load_released(path, image_size=SIZE)


def prune(net: PPNet) -> set[int]:
    """Take away three prototypes, as the released program does."""
    net.prune_prototypes([1, 4, 5])
    return {1, 4, 5}


def test_a_pruned_module_says_its_classes(tmp_path: Path) -> None:
    released = settle(CASES["protopnet"].make())
    prune(released)
    torch.save(released, tmp_path / "net.pth")
    net = load_released(tmp_path / "net.pth", image_size=SIZE)
    assert net.model.class_identity.argmax(1).tolist() == [0, 1, 1, 3, 3]
    check_same(net, released, CASES["protopnet"])


def test_a_pruned_state_dict_needs_what_pruning_wrote(tmp_path: Path) -> None:
    released = settle(CASES["protopnet"].make())
    removed = prune(released)
    torch.save(released.state_dict(), tmp_path / "10prune0.8.pth")
    with pytest.raises(CheckpointError, match=r"which of the 5 prototypes belongs to which of the 4 classes"):
        load_released(tmp_path / "10prune0.8.pth", image_size=SIZE)
    np.save(tmp_path / "prune_info.npy", np.array([(number, number // 2) for number in sorted(removed)]))
    net = load_released(tmp_path / "10prune0.8.pth", image_size=SIZE)
    assert net.model.class_identity.argmax(1).tolist() == [0, 1, 1, 3, 3]
    check_same(net, released, CASES["protopnet"])


def test_a_pickled_array_beside_a_net_is_not_opened(tmp_path: Path) -> None:
    released = CASES["protopnet"].make()
    prune(released)
    torch.save(released.state_dict(), tmp_path / "net.pth")
    np.save(tmp_path / "prune_info.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(CheckpointError, match="must be an array of numbers"):
        load_released(tmp_path / "net.pth", image_size=SIZE)


def test_tesnet_is_known_by_the_length_of_its_prototypes(tmp_path: Path) -> None:
    released = settle(CASES["tesnet"].make())
    vectors = released.prototype_vectors.data
    released.prototype_vectors.data = vectors / vectors.norm(dim=1, keepdim=True)
    torch.save(released.state_dict(), tmp_path / "net.pth")
    net = load_released(tmp_path / "net.pth", image_size=SIZE)
    assert net.system == "TesNet"
    check_same(net, released, CASES["tesnet"])


def test_zero_prototypes_of_a_pool_are_named(tmp_path: Path) -> None:
    torch.save(hard_pool().state_dict(), tmp_path / "net.pth")
    net = load_released(tmp_path / "net.pth", image_size=SIZE)
    assert "never pushed, so zero vectors: prototypes 8" in net.notes


@pytest.mark.parametrize("has_fourth", [False, True])
def test_the_two_sizes_of_the_resnet50_of_inaturalist_are_told_apart(has_fourth: bool) -> None:
    from protokern.interop.backbone_names import body_shapes, settle_backbone

    name = "resnet-bottleneck-3-4-6-4" if has_fourth else "resnet50"
    tensors = {key: torch.empty(shape, device="meta") for key, shape in body_shapes(name).items()}
    found, _, notes = settle_backbone(Path("net.pth"), tensors, "resnet50_inat", None)
    assert found == name
    assert any(name in note for note in notes)


@pytest.mark.parametrize("name", ["vgg11", "vgg19_bn", "resnet34", "resnet152", "densenet161", "convnext_tiny"])
def test_published_backbones_are_found_by_their_tensors(name: str) -> None:
    from protokern.interop.backbone_names import body_shapes, settle_backbone

    prefix = "features." if name.startswith(("vgg", "dense")) else ""
    tensors = {f"{prefix}{key}": torch.empty(shape, device="meta") for key, shape in body_shapes(name).items()}
    found, named, _ = settle_backbone(Path("net.pth"), tensors, None, None)
    assert found == name
    assert named.keys() == body_shapes(name).keys()


def test_a_wrong_backbone_is_one_line(tmp_path: Path) -> None:
    torch.save(CASES["protopnet"].make().state_dict(), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="must have the tensors of backbone 'resnet18'; ") as error:
        load_released(tmp_path / "net.pth", backbone="resnet18", image_size=SIZE)
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="--backbone: must be a name that protokern knows; got 'resnet19'"):
        load_released(tmp_path / "net.pth", backbone="resnet19", image_size=SIZE)


def test_class_names_are_taken_and_counted(tmp_path: Path) -> None:
    torch.save(CASES["protopnet"].make(), tmp_path / "net.pth")
    names = ("ant", "bee", "cat", "dog")
    assert load_released(tmp_path / "net.pth", image_size=SIZE, classes=names).classes == names
    with pytest.raises(ConfigError, match="--classes: must be 4 different names"):
        load_released(tmp_path / "net.pth", image_size=SIZE, classes=names[:3])


class OtherPPNet(PPNet):
    """A program with the names of ProtoPNet's tensors and add-on layers of another form."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.add_on_layers[3] = nn.Tanh()


def test_another_form_of_add_on_layers_is_refused(tmp_path: Path) -> None:
    torch.save(OtherPPNet(tiny_body(), (8, 16, 1, 1), CLASSES, 128), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="a sigmoid at the end; got Conv2d, ReLU, Conv2d, Tanh"):
        load_released(tmp_path / "net.pth", image_size=SIZE)


def half(distances: Tensor) -> Tensor:
    return -distances / 2


def test_a_similarity_that_is_a_function_is_refused(tmp_path: Path) -> None:
    net = PPNet(tiny_body(), (8, 16, 1, 1), CLASSES, 128, prototype_activation_function=half)
    torch.save(net, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="must be 'log' or 'linear'; got a function"):
        load_released(tmp_path / "net.pth", image_size=SIZE)


@pytest.mark.parametrize(
    ("name", "title"), [("prototype_vectors_trivial", "ST-ProtoPNet"), ("prototype_means", "MGProto")]
)
def test_systems_without_a_model_are_named(tmp_path: Path, name: str, title: str) -> None:
    torch.save({name: torch.ones(2), "last_layer.weight": torch.ones(2, 2)}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=f"got {title}"):
        load_released(tmp_path / "net.pth")


def test_tensors_of_no_system_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="got 2 tensors of none of them, such as bias, weight"):
        load_released(tmp_path / "net.pth")


def test_sources_of_the_epoch_of_the_network_are_read(tmp_path: Path) -> None:
    torch.save(CASES["protopnet"].make(), tmp_path / "10push0.8.pth")
    for epoch in (10, 20):
        folder = tmp_path / "img" / f"epoch-{epoch}"
        folder.mkdir(parents=True)
        np.save(folder / f"bb{epoch}.npy", np.arange(48).reshape(8, 6) + epoch)
        np.save(folder / f"bb-receptive_field{epoch}.npy", np.zeros((8, 6), int))
    net = load_released(tmp_path / "10push0.8.pth", image_size=SIZE)
    assert net.sources is not None
    assert net.sources.images == [10 + 6 * number for number in range(8)]
    assert net.sources.rows[1] == {"image": 16, "y0": 17, "y1": 18, "x0": 19, "x1": 20, "class": 21}


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must be a folder with model_state\.pth or model\.pth; it has neither"):
        load_released(tmp_path)
