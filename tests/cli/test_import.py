"""`protokern import`: a run of a released network, which all other commands open."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from protokern.backbones import build_backbone
from protokern.cli.main import main
from protokern.runs.open import load_model, open_run
from tests.cli.pushed_run import CLASSES, write_photos
from tests.interop import released_programs as programs
from tests.interop.programs import PPNet, PrototypeChooser
from tests.interop.released_programs import settle

SIDE = 40  # of the photographs, so that nothing is resized
MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def body() -> nn.Module:
    return build_backbone("tiny", weights="none").body


def pp_net() -> PPNet:
    return settle(PPNet(body(), (6, 8, 1, 1), 2, 128))


def pool_net() -> PrototypeChooser:
    net = PrototypeChooser(body(), 6, 3, 2, 8, 128)
    net.proto_presence.data *= 1e4
    return settle(net)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "protopnet": pp_net,
    "protopool": pool_net,
    "tesnet": lambda: settle(programs.TESNet(body(), (6, 8, 1, 1), 2, 128)),
    "prototree": lambda: settle(programs.ProtoTree(body(), 128, 2, 2, 8)),
    "pipnet": lambda: settle(programs.PIPNet(body(), 128, 2, 10)),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    write_photos(root)
    shutil.copytree(root / "test", root / "val")
    return root


def read(folder: Path) -> tuple[Tensor, list[int]]:
    """Images and labels of a folder in alphabetical order, as the released programs read them."""
    names = [(path, label) for label, name in enumerate(sorted(CLASSES)) for path in sorted((folder / name).iterdir())]
    pixels = [np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255 for path, _ in names]
    return torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2), [label for _, label in names]


@torch.no_grad()
def push(net: PPNet, photos: Path, folder: Path) -> None:
    """What the released push does: prototypes become patches, and bb10.npy says of which images."""
    images, labels = read(photos / "train")
    features = net.conv_features((images - MEAN) / STD)
    boxes = np.full((net.num_prototypes, 6), -1)
    for j in range(net.num_prototypes):
        own = [i for i, label in enumerate(labels) if net.prototype_class_identity[j, label] == 1]
        distance = (features[own] - net.prototype_vectors[j]).square().sum(1).flatten(1)  # (images, patches)
        place = int(distance.argmin())
        image, patch = own[place // distance.shape[1]], place % distance.shape[1]
        net.prototype_vectors[j] = features[image].flatten(1)[:, patch].view(-1, 1, 1)
        boxes[j] = (image, 0, 8, 0, 8, labels[image])
    np.save(folder / "bb10.npy", boxes)


def run_import(*words: object) -> int:
    return main(["import", *map(str, words), "--image-size", str(SIDE)])


def test_a_pushed_network_with_its_images_is_a_finished_run(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = pp_net()
    push(net, photos, tmp_path)
    torch.save(net, tmp_path / "10push0.9.pth")
    out = tmp_path / "run"
    assert run_import(tmp_path / "10push0.9.pth", "--out", out, "--images", photos) == 0
    printed = capsys.readouterr().out
    assert "- 6 of 6 prototypes are patches of the training images, at a distance of 0\n" in printed
    assert "- 6 of 6 are of the image that bb10.npy names\n" in printed
    images, labels = read(photos / "test")
    with torch.no_grad():
        # In float64, because the formula of the program rounds most where distances are small.
        wanted = net.double()(((images - MEAN) / STD).double())[0].float()
    model, _, classes = load_model(out)
    assert classes == tuple(sorted(CLASSES))
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, wanted, rtol=0, atol=1e-4)
    accuracy = float((wanted.argmax(1) == torch.tensor(labels)).float().mean())
    assert f"- accuracy on 8 test images: {accuracy:.4f}\n" in printed
    assert json.loads((out / "imported.json").read_text())["sources"]["rows"][0]["y1"] == 8
    photo = next((photos / "test" / "down").iterdir())
    assert main(["explain", str(out), str(photo), "--out", str(tmp_path / "why")]) == 0
    assert main(["metrics", str(out), "--only", "size", "--images", "2", "--out", str(tmp_path / "numbers")]) == 0
    assert main(["importance", str(out), "--modifications", "hue", "--out", str(tmp_path / "hue")]) == 0
    assert main(["prototypes", str(out), "--out", str(tmp_path / "grid")]) == 0
    assert main(["prune", str(out), "--keep", "0", "3", "5"]) == 0
    assert main(["report", str(out), "--frame", "paper"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(out)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["prototypes"] == 3


def test_a_prototype_that_is_no_patch_has_no_source(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ProtoPool and pruned nets leave such; the others keep theirs."""
    net = pp_net()
    push(net, photos, tmp_path)
    with torch.no_grad():
        net.prototype_vectors[2] = 5
    torch.save(net, tmp_path / "net.pth")
    assert run_import(tmp_path / "net.pth", "--out", tmp_path / "run", "--images", photos) == 0
    assert "- 5 of 6 prototypes are patches of the training images" in capsys.readouterr().out
    found = open_run(tmp_path / "run").push
    assert found.image[2] == found.patch[2] == found.label[2] == -1
    assert (np.delete(found.image.numpy(), 2) >= 0).all()
    photo = next((photos / "test" / "down").iterdir())
    assert main(["report", str(tmp_path / "run"), "--frame", "paper"]) == 0
    assert main(["explain", str(tmp_path / "run"), str(photo), "--out", str(tmp_path / "why")]) == 0


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "protopnet"])
def test_verbs_open_what_was_imported(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    torch.save(NETWORKS[name](), tmp_path / "net.pth")
    (tmp_path / "names.txt").write_text("".join(f"{one}\n" for one in sorted(CLASSES)))
    run = tmp_path / "run"
    is_pipnet = name == "pipnet"
    look = ("--images", photos) if is_pipnet else ("--classes", tmp_path / "names.txt")
    assert run_import(tmp_path / "net.pth", "--out", run, *look) == 0
    if not is_pipnet:
        assert main(["push", str(run), "--data", str(photos)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(photos)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 8
    photo = next((photos / "test" / "down").iterdir())
    assert main(["explain", str(run), str(photo), "--out", str(tmp_path / "why")]) == 0
    assert (tmp_path / "why" / f"{photo.stem}.html").is_file()
    assert main(["report", str(run), "--data", str(photos), "--frame", "paper"]) == 0


def test_what_is_wrong_is_one_line_and_leaves_no_run(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(pp_net().state_dict(), tmp_path / "net.pth")
    (tmp_path / "bad.pth").write_bytes((tmp_path / "net.pth").read_bytes()[:999])
    (tmp_path / "names.txt").write_text("one\n")
    (tmp_path / "map.json").write_text("[1]")
    other = tmp_path / "other"
    for number in range(3):
        shutil.copytree(photos / "test" / "down", other / "train" / str(number))
    shutil.copytree(other / "train", other / "test")
    net, out = tmp_path / "net.pth", tmp_path / "run"
    wrong: list[tuple[tuple[object, ...], str]] = [
        ((tmp_path / "bad.pth",), "bad.pth: is no whole zip file of torch.save; it may be cut off"),
        ((tmp_path / "no.pth",), "no.pth: cannot be read (No such file or directory)"),
        ((net, "--classes", tmp_path / "names.txt"), "--classes: must be 2 different names"),
        ((net, "--tree-map", tmp_path / "map.json"), "--tree-map: must be JSON such as"),
        ((net, "--backbone", "resnet18"), "must have the tensors of backbone 'resnet18'"),
        ((net, "--images", other), "--images: must have the 2 classes of the network; got 3"),
    ]
    for words, message in wrong:
        assert run_import(*words, "--out", out) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not out.exists()


def test_a_run_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(pp_net(), tmp_path / "net.pth")
    assert run_import(tmp_path / "net.pth", "--out", tmp_path / "run") == 0
    assert run_import(tmp_path / "net.pth", "--out", tmp_path / "run") == 2
    assert "already holds a run" in capsys.readouterr().err


def test_an_imported_run_has_no_training_to_go_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(pp_net(), tmp_path / "net.pth")
    assert run_import(tmp_path / "net.pth", "--out", tmp_path / "run") == 0
    assert main(["train", "--out", str(tmp_path / "run"), "--resume"]) == 2
    assert "holds an imported network, and no training to go on with" in capsys.readouterr().err
