"""The similarity and the classifiers inside the real CaBRNet. `make test-cabrnet` makes an environment that has it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protokern.interop import load_released

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("cabrnet", reason="CaBRNet is not installed here; make test-cabrnet runs this file")
    from cabrnet.archs.generic.model import CaBRNet
    from cabrnet.core.utils import similarities
    from cabrnet.core.utils.parser import load_config

    from protokern.interop.cabrnet import (
        FusedProtoPNetClassifier,
        FusedProtoPoolClassifier,
        FusedProtoTreeClassifier,
        FusedSimilarity,
    )

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "cabrnet"
OWN = {
    "similarity": {"module": "cabrnet.core.utils.similarities", "name": "ProtoPNetSimilarity"},
    "protopnet": {"module": "cabrnet.archs.protopnet.decision", "name": "ProtoPNetClassifier"},
    "protopool": {"module": "cabrnet.archs.protopool.decision", "name": "ProtoPoolClassifier"},
}
POOL = {
    "module": "protokern.interop.cabrnet",
    "name": "FusedProtoPoolClassifier",
    "params": {"num_classes": 3, "num_features": 64, "num_prototypes": 10, "num_slots_per_class": 2},
}
# CaBRNet's distances are squares of square roots.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}

pytestmark = pytest.mark.filterwarnings("ignore")


def example_config(family: str) -> dict[str, Any]:
    """The example's YAML with the smallest extractor, for ProtoPNet or ProtoPool."""
    config = load_config(str(EXAMPLE / "model.yml"))
    config["extractor"]["backbone"]["layer"] = "layer1"
    if family == "protopool":
        config["classifier"] = copy.deepcopy(POOL)
        config["top_arch"] = {"module": "cabrnet.archs.protopool.model", "name": "ProtoPool"}
    return config


def build(family: str) -> tuple[nn.Module, nn.Module]:
    """CaBRNet's own network and ours, from YAML, with one state."""
    ours = CaBRNet.build_from_config(example_config(family))
    config = example_config(family)
    config["similarity"] = dict(OWN["similarity"])
    config["classifier"].update(OWN[family])
    theirs = CaBRNet.build_from_config(config)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


@pytest.fixture(scope="module", params=["protopnet", "protopool"])
def family_and_pair(request: pytest.FixtureRequest) -> tuple[str, tuple[nn.Module, nn.Module]]:
    torch.manual_seed(0)
    return request.param, build(request.param)


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 32, 40, generator=torch.Generator().manual_seed(1))


def outputs_and_gradients(network: nn.Module, **options: Any) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    network.zero_grad()
    torch.manual_seed(4)
    features = network.extractor(images())
    outputs = network.classifier(features, **options)
    weights = [torch.linspace(-1, 1, out.numel()).view(out.shape) for out in outputs]
    sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True)).backward()
    return outputs, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def test_the_yaml_selects_our_classes(family_and_pair: tuple[str, tuple[nn.Module, nn.Module]]) -> None:
    family, (_, ours) = family_and_pair
    wanted = FusedProtoPNetClassifier if family == "protopnet" else FusedProtoPoolClassifier
    assert type(ours.classifier) is wanted
    assert type(ours.classifier.similarity_layer) is FusedSimilarity
    assert ours.classifier.similarity_layer.stability_factor == 1e-4


def assert_networks_agree(theirs: nn.Module, ours: nn.Module, **options: Any) -> None:
    (wanted, wanted_grads), (got, grads) = (outputs_and_gradients(network, **options) for network in (theirs, ours))
    for one, other in zip(wanted, got, strict=True):
        torch.testing.assert_close(other, one, **CLOSE)
    assert grads.keys() == wanted_grads.keys()
    for name, gradient in wanted_grads.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(grads[name] / scale, gradient / scale, **CLOSE)


def test_networks_agree_in_values_and_gradients(family_and_pair: tuple[str, tuple[nn.Module, nn.Module]]) -> None:
    family, pair = family_and_pair
    assert_networks_agree(*pair, **({"gumbel_scale": 200} if family == "protopool" else {}))


def test_slots_without_noise_are_taken_as_they_are() -> None:
    """CaBRNet does so once the training is over and every slot holds one prototype."""
    torch.manual_seed(0)
    pair = build("protopool")
    for network in pair:
        slots = network.classifier.proto_slot_map.data
        slots.copy_(torch.zeros_like(slots).scatter_(1, slots.argmax(1, keepdim=True), 1))
    assert_networks_agree(*pair)


def test_the_methods_of_the_classifier_agree(family_and_pair: tuple[str, tuple[nn.Module, nn.Module]]) -> None:
    theirs, ours = family_and_pair[1]
    with torch.no_grad():
        features = theirs.features(images())
        for method in ("distances", "similarities"):
            wanted = getattr(theirs.classifier, method)(features)
            got = getattr(ours.classifier, method)(features)
            assert got.shape == wanted.shape
            torch.testing.assert_close(got, wanted, **CLOSE)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ProtoPNetSimilarity", {}),
        ("LegacyProtoPNetSimilarity", {}),
        ("CosineSimilarity", {"metric": "cosine", "activation": "cosine"}),
    ],
)
def test_similarities_are_those_of_cabrnet(name: str, options: dict[str, str]) -> None:
    features, prototypes = torch.rand(2, 7, 4, 5), torch.rand(6, 7, 1, 1)
    layer = getattr(similarities, name)(num_prototypes=6, num_features=7)
    ours = FusedSimilarity(num_prototypes=6, num_features=7, **options)
    wanted = layer.distances(features, prototypes)
    torch.testing.assert_close(ours.distances(features, prototypes), wanted, **CLOSE)
    torch.testing.assert_close(
        ours.distances_to_similarities(wanted), layer.distances_to_similarities(wanted), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(ours(features, prototypes), layer(features, prototypes), rtol=1e-3, atol=1e-3)


def test_projected_prototypes_are_at_distance_zero() -> None:
    torch.manual_seed(0)
    _, ours = build("protopnet")
    labels = torch.arange(12) % 3
    data = torch.utils.data.TensorDataset(images(12), labels)
    loader = torch.utils.data.DataLoader(data, batch_size=5)
    found = ours.project(loader, device="cpu")
    with torch.no_grad():
        logits, smallest = ours(images(12))
    for prototype in found:
        assert smallest[prototype["img_idx"], prototype["proto_idx"]] == 0
    similarity = ours.classifier.distances_to_similarities(smallest)
    assert similarity.amax(0).tolist() == pytest.approx([9.2103] * 12, abs=1e-4)
    assert logits.shape == (12, 3)


def test_what_the_classifiers_refuse() -> None:
    config = example_config("protopnet")
    config["similarity"] = dict(OWN["similarity"])
    with pytest.raises(
        ValueError,
        match=r"^similarity: must be FusedSimilarity in FusedProtoPNetClassifier; got ProtoPNetSimilarity\. Write",
    ):
        CaBRNet.build_from_config(config)
    config = example_config("protopool")
    config["classifier"]["params"]["compatibility_mode"] = True
    config["similarity"].pop("params")
    with pytest.raises(
        ValueError,
        match=r"^compatibility_mode: must be off in FusedProtoPoolClassifier; .*, or choose CaBRNet's ProtoPool",
    ):
        CaBRNet.build_from_config(config)
    config = example_config("protopool")
    config["similarity"]["params"] = {"metric": "cosine"}
    with pytest.raises(ValueError, match=r"^similarity: must have metric 'sqeuclidean' in FusedProtoPoolClassifier"):
        CaBRNet.build_from_config(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "l2"}, r"^metric: must be one of sqeuclidean, cosine, dot; got 'l2'\.$"),
        ({"activation": "cosine"}, r"^activation: must not be 'cosine' unless metric is 'cosine'"),
        ({"stability_factor": 0}, r"^epsilon: must be a finite number above 0; got 0\.$"),
        ({"backend": "cuda"}, r"^backend: must be 'auto' or one of"),
        ({"precision": "fp8"}, r"^precision: must be None or"),
    ],
)
def test_what_the_similarity_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FusedSimilarity(**options)


@pytest.mark.slow
def test_the_example_trains_projects_and_prunes_with_cabrnets_own_command(tmp_path: Path) -> None:
    """`cabrnet train` on the example's files, with fewer images and epochs."""
    shrink = {
        "model": {"layer: layer2": "layer: layer1"},
        "dataset": {"images_per_class: 20": "images_per_class: 6", "images_per_class: 10": "images_per_class: 2"},
        "training": {"num_epochs: 6": "num_epochs: 2", "[0, 5]": "[0, 1]", "start_epoch: 3": "start_epoch: 1"},
    }
    files = []
    for name, changes in shrink.items():
        text = (EXAMPLE / f"{name}.yml").read_text(encoding="utf-8")
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / f"{name}.yml").write_text(text, encoding="utf-8")
        files += [f"--{'model-arch' if name == 'model' else name}", str(tmp_path / f"{name}.yml")]
    options = ["--output-dir", str(tmp_path / "run"), "--save-best", "train_set/accuracy", "max", "--device", "cpu"]
    command = [sys.executable, "-m", "cabrnet.main", "train", *files, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for told in ("After projection", "Model statistics after pruning", "Metrics on test set"):
        assert told in done.stderr
    state = torch.load(tmp_path / "run" / "final" / "model_state.pth")
    assert "classifier.prototypes" in state


def tree_config(module: str, name: str, similarity: dict[str, Any], **params: Any) -> dict[str, Any]:
    config = example_config("protopnet")
    config["top_arch"] = {"module": "cabrnet.archs.prototree.model", "name": "ProtoTree"}
    config["similarity"] = similarity
    params = {"num_classes": 3, "num_features": 64, "depth": 3, "leaves_init_mode": "NORMAL", **params}
    config["classifier"] = {"module": module, "name": name, "params": params}
    return config


OWN_TREE = ("cabrnet.archs.prototree.decision", "ProtoTreeClassifier", {"name": "ProtoTreeSimilarity"})
FUSED = {"module": "protokern.interop.cabrnet", "name": "FusedSimilarity"}
FUSED_TREE = (FUSED["module"], "FusedProtoTreeClassifier", {**FUSED, "params": {"activation": "exp_root"}})


def test_a_tree_agrees_in_values_and_gradients() -> None:
    torch.manual_seed(0)
    theirs, ours = (CaBRNet.build_from_config(tree_config(*parts)).eval() for parts in (OWN_TREE, FUSED_TREE))
    assert type(ours.classifier) is FusedProtoTreeClassifier
    assert list(theirs.state_dict()) == list(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    found = []
    for network in (theirs, ours):
        answer, told = network.classifier(network.extractor(images()))
        (answer * torch.linspace(-1, 1, answer.numel()).view(answer.shape)).sum().backward()
        found.append((answer, told, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}))
    (wanted, wanted_told, wanted_grads), (got, told, grads) = found
    torch.testing.assert_close(got, wanted, **CLOSE)
    assert told.keys() == wanted_told.keys()
    for node, table in wanted_told.items():
        torch.testing.assert_close(told[node]["absolute_probability"], table["absolute_probability"], **CLOSE)
    assert grads.keys() == wanted_grads.keys()
    for name, gradient in wanted_grads.items():
        torch.testing.assert_close(grads[name], gradient, **CLOSE)
    maps = [network.classifier.similarities(network.extractor(images())) for network in (theirs, ours)]
    torch.testing.assert_close(maps[1], maps[0], **CLOSE)


def test_a_tree_with_another_similarity_is_refused() -> None:
    with pytest.raises(ValueError, match="must have activation 'exp_root' in FusedProtoTreeClassifier"):
        CaBRNet.build_from_config(tree_config(*FUSED_TREE[:2], dict(FUSED)))
    with pytest.raises(ValueError, match="similarity: must be FusedSimilarity in FusedProtoTreeClassifier"):
        CaBRNet.build_from_config(tree_config(*FUSED_TREE[:2], OWN_TREE[2]))


def importable() -> dict[str, dict[str, Any]]:
    """Configurations of the real CaBRNet, whose networks `load_released` takes."""
    classifier = {"num_classes": 3, "num_features": 64}
    pool = {**classifier, "num_prototypes": 10, "num_slots_per_class": 2}
    configs = {"protopnet": example_config("protopnet"), "cosine": example_config("protopnet")}
    for config, name in zip(configs.values(), ("ProtoPNetSimilarity", "CosineSimilarity"), strict=True):
        config["similarity"] = {"name": name}
        config["classifier"].update(OWN["protopnet"])
    configs["protopool"] = example_config("protopool")
    configs["protopool"].update(similarity=dict(OWN["similarity"]), classifier={**OWN["protopool"], "params": pool})
    configs["prototree"] = tree_config(*OWN_TREE)
    return configs


@pytest.mark.parametrize("name", ["protopnet", "cosine", "protopool", "prototree"])
def test_networks_of_the_real_cabrnet_are_imported(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    config = importable()[name]
    theirs = CaBRNet.build_from_config(copy.deepcopy(config)).eval()
    if name == "protopool":
        slots = theirs.classifier.proto_slot_map.data
        slots.copy_(torch.zeros_like(slots).scatter_(1, slots.argmax(1, keepdim=True), 1))
    torch.save(theirs.state_dict(), tmp_path / "model_state.pth")
    (tmp_path / "model_arch.yml").write_text(json.dumps(config))
    net = load_released(tmp_path, image_size=32)
    with torch.no_grad():
        wanted = theirs((images() - net.model.backbone.mean) / net.model.backbone.std)[0]
        got = net(images()).logits
    torch.testing.assert_close(got.exp() if name == "prototree" else got, wanted, **CLOSE)
