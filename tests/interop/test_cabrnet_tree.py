"""ProtoTree's similarity and classifier inside the real CaBRNet, which `make test-cabrnet` installs."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("cabrnet", reason="CaBRNet is not installed here; make test-cabrnet runs this file")
    from cabrnet.archs.generic.model import CaBRNet
    from cabrnet.archs.prototree.decision import SamplingStrategy
    from cabrnet.core.utils import similarities
    from cabrnet.core.utils.parser import load_config

    from protokern.interop.cabrnet import FusedProtoTreeClassifier, FusedSimilarity

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cabrnet" / "model.yml"
# CaBRNet's distances are squares of square roots.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}

pytestmark = pytest.mark.filterwarnings("ignore")


def config(in_logs: bool = False) -> dict[str, Any]:
    """The example's YAML with the smallest extractor and our ProtoTree."""
    config = load_config(str(EXAMPLE))
    config["extractor"]["backbone"]["layer"] = "layer1"
    params: dict[str, Any] = {"log_probabilities": True} if in_logs else {}
    config["similarity"]["params"] = {"activation": "exp_root", **params}
    config["classifier"] = {
        "module": "protokern.interop.cabrnet",
        "name": "FusedProtoTreeClassifier",
        "params": {"num_classes": 3, "num_features": 64, "depth": 3, "leaves_init_mode": "NORMAL", **params},
    }
    config["top_arch"] = {"module": "cabrnet.archs.prototree.model", "name": "ProtoTree"}
    return config


def build(in_logs: bool) -> tuple[nn.Module, nn.Module]:
    """CaBRNet's own network and ours, from YAML, with one state."""
    torch.manual_seed(0)
    ours = CaBRNet.build_from_config(config(in_logs))
    own = config(in_logs)
    own["similarity"].update(module="cabrnet.core.utils.similarities", name="ProtoTreeSimilarity")
    del own["similarity"]["params"]["activation"]
    own["classifier"].update(module="cabrnet.archs.prototree.decision", name="ProtoTreeClassifier")
    theirs = CaBRNet.build_from_config(own)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    # Apart from each other, so that both sides of a branch are taken.
    for network in (theirs, ours):
        network.classifier.prototypes.data = torch.rand(7, 64, 1, 1, generator=torch.Generator().manual_seed(2))
    return theirs.eval(), ours.eval()


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 32, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=[False, True], ids=["probabilities", "logs"])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    return build(request.param)


def test_values_and_gradients_are_those_of_cabrnet(pair: tuple[nn.Module, nn.Module]) -> None:
    outcomes = []
    for network in pair:
        network.zero_grad()
        answer, seen = network(images())
        (answer * torch.linspace(-1, 1, answer.numel()).view_as(answer)).sum().backward()
        outcomes.append((answer, seen, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}))
    (wanted, wanted_seen, wanted_grads), (got, seen, grads) = outcomes
    assert type(pair[1].classifier) is FusedProtoTreeClassifier
    torch.testing.assert_close(got, wanted, **CLOSE)
    assert seen.keys() == wanted_seen.keys()
    for name, node in wanted_seen.items():
        for what, value in node.items():
            torch.testing.assert_close(seen[name][what], value, **CLOSE)
    assert grads.keys() == wanted_grads.keys()
    for name, gradient in wanted_grads.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(grads[name] / scale, gradient / scale, **CLOSE)


@pytest.mark.parametrize("strategy", [SamplingStrategy.SAMPLE_MAX, SamplingStrategy.GREEDY])
def test_single_leaves_are_those_of_cabrnet(strategy: Any, pair: tuple[nn.Module, nn.Module]) -> None:
    (wanted, wanted_seen), (got, seen) = (network(images(), strategy=strategy) for network in pair)
    torch.testing.assert_close(got, wanted, **CLOSE)
    assert seen["decision_leaf"] == wanted_seen["decision_leaf"]


@pytest.mark.parametrize("in_logs", [False, True])
def test_similarities_are_those_of_cabrnet(in_logs: bool) -> None:
    features, prototypes = torch.rand(2, 7, 4, 5), torch.rand(6, 7, 1, 1)
    theirs = similarities.ProtoTreeSimilarity(log_probabilities=in_logs)
    ours = FusedSimilarity("exp_root", log_probabilities=in_logs)
    distances = theirs.distances(features, prototypes)
    torch.testing.assert_close(ours.distances(features, prototypes), distances, **CLOSE)
    torch.testing.assert_close(ours.distances_to_similarities(distances), theirs.distances_to_similarities(distances))
    wanted = theirs(features, prototypes).flatten(2).amax(2)
    torch.testing.assert_close(ours.nearest(features, prototypes).activation, wanted, **CLOSE)


def test_projected_prototypes_are_at_distance_zero() -> None:
    ours = build(False)[1]
    data = torch.utils.data.TensorDataset(images(12), torch.arange(12) % 3)
    loader = torch.utils.data.DataLoader(data, batch_size=5)
    found = ours.project(loader, device="cpu")
    with torch.no_grad():
        smallest = ours.classifier.distances(ours.extractor(images(12))).flatten(2).amin(2)
    assert found
    for prototype in found:
        assert smallest[prototype["img_idx"], prototype["proto_idx"]] == 0


def test_what_the_classifier_and_the_similarity_refuse() -> None:
    other = config()
    other["similarity"]["params"] = {"activation": "log"}
    with pytest.raises(ValueError, match=r"^similarity: must have activation 'exp_root' in Fused.*; got 'log'"):
        CaBRNet.build_from_config(other)
    half = config(in_logs=True)
    del half["similarity"]["params"]["log_probabilities"]
    with pytest.raises(ValueError, match=r"^similarity: must have log_probabilities True, as Fused.*; got False\."):
        CaBRNet.build_from_config(copy.deepcopy(half))
    half["similarity"] = {"module": "cabrnet.core.utils.similarities", "name": "ProtoTreeSimilarity"}
    with pytest.raises(ValueError, match=r"^similarity: must be FusedSimilarity in FusedProtoTreeClassifier; got"):
        CaBRNet.build_from_config(half)
    with pytest.raises(ValueError, match=r"^stability_factor: must be 1e-14 with activation 'exp_root'; got 0\.1\."):
        FusedSimilarity("exp_root", stability_factor=0.1)
    with pytest.raises(ValueError, match=r"^log_probabilities: must be off unless .*; got True with 'exp'\. Leave it"):
        FusedSimilarity("exp", log_probabilities=True)
