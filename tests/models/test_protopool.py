"""ProtoPool: the contract of all models, the released program, the paper's formula, and what final choices promise."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.losses import Labels, LossCoefficients
from protokern.models import ProtoPool, ProtoPoolOutput
from tests.interop.programs import PrototypeChooser
from tests.kernels import oracle
from tests.kernels.memory import peak_bytes

from .contract import ModelContract

FOCALS = ["distance", "similarity"]


class PoolContract(ModelContract):
    """Five prototypes in two slots of three classes, so that one at least is shared."""

    def build(self, backbone, num_classes, **options):
        return ProtoPool(
            backbone,
            num_classes,
            num_prototypes=5,
            slots_per_class=2,
            prototype_dim=4,
            in_channels=self.CHANNELS,
            image_size=16,
            **options,
        )


class TestFocalDistance(PoolContract):
    pass


class TestFocalSimilarity(PoolContract):
    def build(self, backbone, num_classes):
        return super().build(backbone, num_classes, focal="similarity")


class TestSumOfSlots(PoolContract):
    def build(self, backbone, num_classes):
        return super().build(backbone, num_classes, last_layer="sum", compat=True)


class TestCosine(PoolContract):
    def build(self, backbone, num_classes):
        options = {"metric": "cosine", "activation": "cosine", "add_on_layers": "linear"}
        return super().build(backbone, num_classes, **options)


class TestSalience(PoolContract):
    def build(self, backbone, num_classes):
        options = {"metric": "cosine", "activation": "cosine", "add_on_layers": "linear", "salience": 1.0}
        return super().build(backbone, num_classes, **options)


class TestLargePrototypes(PoolContract):
    def build(self, backbone, num_classes):
        return super().build(backbone, num_classes, prototype_size=(2, 1), focal="similarity", last_layer="sum")


class TestMeanOfTheNearest(PoolContract):
    def build(self, backbone, num_classes):
        return super().build(backbone, num_classes, focal="similarity", top_k=2)


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU())


def pool(**options: object) -> ProtoPool:
    """Seven prototypes in three slots of two classes."""
    return ProtoPool(conv_net(), 2, num_prototypes=7, slots_per_class=3, prototype_dim=5, **options)


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 13, 11, generator=torch.Generator().manual_seed(1))


def test_defaults_are_those_of_the_release():
    model = ProtoPool(conv_net(), 3, num_prototypes=12)
    assert model.assignment.presence_logits.shape == (3, 12, 10)
    assert model.assignment.schedule_epochs == 30
    assert model.prototype_layer.prototypes.shape == (12, 128)
    assert (model.prototype_layer.activation, model.prototype_layer.epsilon) == ("log", 1e-4)
    assert (model.focal, model.compat, model.mixup) == ("distance", False, 0.5)
    assert [type(layer) for layer in model.add_on_layers] == [nn.Conv2d, nn.Sigmoid]
    assert torch.equal(model.last_layer.weight, torch.eye(3).repeat_interleave(10, 1))


def test_output_has_what_is_in_the_slots():
    output = pool()(images())
    assert output.slot_similarities.shape == (4, 2, 3)
    assert output.assignment.shape == (2, 7, 3)


def exponential_from_uniform(tensor: Tensor) -> Tensor:
    """Exponential numbers made of the uniform ones that our noise is made of, in the place of torch's own."""
    return tensor.copy_(-torch.rand(tensor.shape, dtype=tensor.dtype).log())


class TestRelease:
    """The released program's network with the same weights and the same noise."""

    @pytest.fixture
    def same_noise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the program draw its noise in our order, (K, S, P); the formula is torch's."""
        draw = F.gumbel_softmax

        def drawn_by_slot(logits: Tensor, tau: float, dim: int) -> Tensor:
            assert dim == 1
            torch.manual_seed(3)
            return draw(logits.transpose(1, 2), tau=tau, dim=2).transpose(1, 2)

        monkeypatch.setattr(F, "gumbel_softmax", drawn_by_slot)
        monkeypatch.setattr(Tensor, "exponential_", exponential_from_uniform)

    def pair(self, last_layer: str, activation: str) -> tuple[ProtoPool, PrototypeChooser]:
        """Ours, and the program's with our weights."""
        function = (lambda distance: 1 / (distance + 1)) if activation == "linear" else activation
        ours = pool(last_layer=last_layer, activation=function).double()
        linear = last_layer == "linear"
        theirs = PrototypeChooser(
            copy.deepcopy(ours.backbone), 7, 3, 2, 5, 6, use_last_layer=linear, prototype_activation_function=activation
        ).double()
        with torch.no_grad():
            theirs.add_on_layers.load_state_dict(ours.add_on_layers.state_dict())
            theirs.prototype_vectors.copy_(ours.prototype_layer.prototypes[..., None, None])
            theirs.proto_presence.copy_(ours.assignment.presence_logits)
            if linear:
                ours.last_layer.weight.normal_()
                theirs.last_layer.weight.copy_(ours.last_layer.weight)
        return ours, theirs

    @pytest.mark.usefixtures("same_noise")
    @pytest.mark.parametrize("activation", ["log", "linear"])
    @pytest.mark.parametrize("last_layer", ["linear", "sum"])
    @pytest.mark.parametrize("epoch", [0, 1, 30])
    def test_logits_and_gradients_are_the_programs(self, epoch, last_layer, activation):
        ours, theirs = self.pair(last_layer, activation)
        ours.set_progress(epoch)
        scale = float(ours.assignment.scale)
        torch.manual_seed(3)
        output = ours(images().double())
        logits, min_distances, assignment = theirs(images().double(), gumbel_scale=scale)
        close = {"rtol": 1e-8, "atol": 1e-9}
        torch.testing.assert_close(output.logits, logits, **close)
        torch.testing.assert_close(output.min_distances, min_distances, **close)
        torch.testing.assert_close(output.assignment, assignment, **close)
        weight = torch.randn_like(logits), torch.randn_like(min_distances)
        ((output.logits * weight[0]).sum() + (output.min_distances * weight[1]).sum()).backward()
        ((logits * weight[0]).sum() + (min_distances * weight[1]).sum()).backward()
        gradients = [
            *zip(ours.backbone.parameters(), theirs.features.parameters(), strict=True),
            *zip(ours.add_on_layers.parameters(), theirs.add_on_layers.parameters(), strict=True),
            *zip(ours.last_layer.parameters(), theirs.last_layer.parameters(), strict=True),
            (ours.prototype_layer.prototypes, theirs.prototype_vectors),
            (ours.assignment.presence_logits, theirs.proto_presence),
        ]
        for mine, other in gradients:
            size = max(1.0, float(other.grad.abs().max()))
            torch.testing.assert_close(mine.grad / size, other.grad.view(mine.shape) / size, **close)

    @pytest.mark.parametrize("last_layer", ["linear", "sum"])
    def test_final_choices_are_the_programs_at_its_largest_scale(self, last_layer):
        """At 1e4, as it pushes and finetunes, its softmax is one-hot wherever no two slots want the same."""
        ours, theirs = (network.eval() for network in self.pair(last_layer, "log"))
        slots = torch.tensor([[1, 4, 6], [6, 0, 2]])
        with torch.no_grad():
            for logits in (ours.assignment.presence_logits, theirs.proto_presence):
                logits.copy_(F.one_hot(slots, 7).transpose(1, 2))
        ours.harden()
        assert torch.equal(ours.slots, slots)
        wanted = theirs(images().double(), gumbel_scale=1e4)[0]
        torch.testing.assert_close(ours(images().double()).logits, wanted, rtol=1e-8, atol=1e-8)


def focal_by_the_paper(model: ProtoPool, features: Tensor) -> Tensor:
    """Maximum less mean of the similarity over the whole map, (B, P)."""
    layer = model.prototype_layer
    distances = oracle.distance_map(features, layer.prototypes, layer.metric)
    similarity = oracle.activation(distances, layer.activation, layer.epsilon).flatten(2)
    return similarity.amax(dim=2) - similarity.mean(dim=2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "exp"},
        {"prototype_size": (2, 3)},
        {"metric": "cosine", "activation": "cosine", "add_on_layers": "linear"},
        {"metric": "cosine", "activation": "log", "add_on_layers": "linear", "prototype_size": (2, 1)},
        {"epsilon": 0.1, "last_layer": "sum"},
    ],
    ids=str,
)
@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_focal_similarity_is_the_formula_of_the_paper(hard, options):
    model = pool(focal="similarity", **options).double().eval()
    features = torch.randn(4, 5, 6, 4).double().requires_grad_()  # no two patches in one direction
    presence = model.assignment.presence_logits
    shares = presence.exp() / presence.exp().sum(dim=1, keepdim=True)
    if hard:
        model.harden()
        shares = F.one_hot(model.slots, 7).transpose(1, 2).double()
    focal = focal_by_the_paper(model, features)
    slots = torch.einsum("bp,kps->bks", focal, shares)
    wanted = slots.sum(dim=2) if "last_layer" in options else slots.flatten(1) @ model.last_layer.weight.T
    output = model.head(features)
    torch.testing.assert_close(output.activations, focal)
    torch.testing.assert_close(output.slot_similarities, slots)
    torch.testing.assert_close(output.logits, wanted)
    leaves = [features, model.prototype_layer.prototypes, *([] if hard else [presence])]
    weight = torch.randn_like(wanted)
    gradients = (torch.autograd.grad((logits * weight).sum(), leaves) for logits in (output.logits, wanted))
    for got, other in zip(*gradients, strict=True):
        torch.testing.assert_close(got, other)


@pytest.mark.parametrize("options", [{}, {"prototype_size": (2, 3)}, {"metric": "cosine", "add_on_layers": "linear"}])
def test_focal_distance_of_final_choices_is_the_similarity_at_the_mean(options):
    model = pool(**options).double().eval()
    model.harden()
    features = model.features(images().double())
    layer = model.prototype_layer
    distances = oracle.distance_map(features, layer.prototypes, layer.metric).flatten(2)
    wanted = oracle.activation(distances.amin(dim=2), "log") - oracle.activation(distances.mean(dim=2), "log")
    torch.testing.assert_close(model(images().double()).activations, wanted)


@pytest.mark.parametrize("focal", FOCALS)
@pytest.mark.parametrize("last_layer", ["linear", "sum"])
def test_final_slots_hold_the_activations_of_their_prototypes_and_empty_ones_nothing(last_layer, focal):
    model = pool(focal=focal, last_layer=last_layer).eval()
    model.harden()
    dropped = int(model.slots[0, 1])
    model.keep_prototypes([p for p in range(7) if p != dropped])
    assert model.slots[0, 1] == -1
    output = model(images())
    for k, row in enumerate(model.slots.tolist()):
        for s, prototype in enumerate(row):
            wanted = torch.zeros(4) if prototype == -1 else output.activations[:, prototype]
            assert torch.equal(output.slot_similarities[:, k, s], wanted)
    assert output.assignment[0, :, 1].tolist() == [0] * 6
    torch.testing.assert_close(output.logits, output.activations @ model.prototype_weight.T, rtol=1e-5, atol=1e-5)


def test_weight_of_a_prototype_is_that_of_all_its_slots():
    model = pool()
    with torch.no_grad():
        model.assignment.presence_logits.copy_(
            F.one_hot(torch.tensor([[1, 4, 6], [6, 0, 2]]), 7).transpose(1, 2).float()
        )
        model.last_layer.weight.copy_(torch.arange(12.0).view(2, 6))
    model.harden()
    model.keep_prototypes([1, 6, 0, 3])
    # Slots are now 0, -, 1 of class 0 and 1, 2, - of class 1.
    assert model.slots.tolist() == [[0, -1, 1], [1, 2, -1]]
    assert model.prototype_weight.tolist() == [[0, 2 + 3, 4, 0], [6, 8 + 9, 10, 0]]
    assert model.class_identity.tolist() == [[1, 0], [1, 1], [0, 1], [0, 0]]
    summed = pool(last_layer="sum")
    summed.load_state_dict({k: v for k, v in pool().state_dict().items() if k != "last_layer.weight"})
    summed.harden()
    assert torch.equal(summed.prototype_weight, summed.class_identity.T)


def test_soft_choices_have_no_weights():
    with pytest.raises(
        ValueError,
        match=r"model: must have made its choices final, .*; they are soft\. Call model\.harden\(\), or take",
    ):
        _ = pool().prototype_weight


def test_hardening_reports_what_it_did():
    model = ProtoPool(conv_net(), 2, num_prototypes=6, slots_per_class=2, prototype_dim=5)
    with torch.no_grad():
        logits = model.assignment.presence_logits.fill_(-30)
        logits[0, 1, 0] = logits[0, 1, 1] = logits[0, 2, 1] = logits[1, 2, 0] = 30
        logits[1, 3, 1] = logits[1, 4, 1] = 30
        logits[0, 1, 0] += 1
    use = model.pool_use()
    assert (use.shared, use.unused, use.repeated) == ((), (0, 4, 5), (0,))
    report = model.harden()
    # Two prototypes were as likely as each other; slot 1 of class 0 gave prototype 1 up for 2, which class 1 has too.
    assert report.pop("largest_entropy") == pytest.approx(torch.tensor(2.0).log().item())
    assert report == {"repeated": 1, "shared": 1, "unused": 3}
    assert model.slots.tolist() == [[1, 2], [2, 3]]
    assert model.pool_use().shared == (2,)
    assert model.harden() == {}


@pytest.mark.parametrize("focal", FOCALS)
def test_a_batch_of_one_gives_what_the_image_gives_among_others(focal):
    model = pool(focal=focal).eval()
    for _ in range(2):
        batch = model(images())
        one = model(images()[:1])
        torch.testing.assert_close(one.logits, batch.logits[:1])
        torch.testing.assert_close(one.slot_similarities, batch.slot_similarities[:1])
        model.harden()


def test_training_draws_noise_and_evaluation_does_not():
    model = pool()
    features = model.features(images()).detach()
    model.set_progress(1)
    assert not torch.equal(model.head(features).logits, model.head(features).logits)
    model.eval()
    assert torch.equal(model.head(features).logits, model.head(features).logits)


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("focal", FOCALS)
@pytest.mark.parametrize(
    "options", [{}, {"metric": "cosine", "add_on_layers": "linear"}, {"prototype_size": (2, 2)}], ids=str
)
def test_no_tensor_of_all_distances_in_memory(options, focal, hard):
    model = ProtoPool(
        nn.Identity(),
        3,
        num_prototypes=1024,
        slots_per_class=2,
        prototype_dim=6,
        in_channels=6,
        image_size=16,
        focal=focal,
        **options,
    )
    model.set_progress(1)
    if hard:
        model.harden()
    features = torch.rand(64, 6, 14, 14, requires_grad=True)
    leaves = [features, model.prototype_layer.prototypes, *([] if hard else [model.assignment.presence_logits])]

    def forward_and_backward() -> None:
        output = model.head(features)
        torch.autograd.grad(output.logits.sum() + output.min_distances.sum(), leaves)

    all_distances = 4 * 64 * 1024 * 14 * 14
    assert peak_bytes(forward_and_backward) < 0.25 * all_distances


def test_compiled_training_is_one_graph_in_every_phase():
    torch._dynamo.reset()
    model = pool()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for prepare in (lambda: model.set_progress(0), lambda: model.set_progress(1), model.harden):
        prepare()
        outcomes = []
        for network in (compiled, model):
            model.zero_grad()
            torch.manual_seed(2)
            output = network(images())
            (output.logits.square().sum() + output.min_distances.sum()).backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            outcomes.append([output.logits, output.assignment, *gradients])
        for one, other in zip(*outcomes, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of export's own code
@pytest.mark.parametrize(("focal", "hard"), [("distance", False), ("similarity", True)])
def test_exported_model_gives_the_same(focal, hard):
    torch._dynamo.reset()
    model = pool(focal=focal).eval()
    model.set_progress(1)
    if hard:
        model.harden()
    output, wanted = torch.export.export(model, (images(),)).module()(images()), model(images())
    assert type(output) is ProtoPoolOutput
    for field in fields(wanted):
        torch.testing.assert_close(getattr(output, field.name), getattr(wanted, field.name))


def test_a_new_scale_does_not_compile_again():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    model = pool().eval()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for epoch in (1, 2, 3):
        model.set_progress(epoch)
        torch.testing.assert_close(compiled(images()).logits, model(images()).logits)
    assert counter.frame_count == 1


@pytest.mark.parametrize("compat", [False, True])
def test_loss_names_the_terms_of_the_formula_that_was_asked_for(compat):
    model = pool(compat=compat)
    output = model(images())
    labels = Labels(torch.tensor([0, 1, 1, 0]))
    terms = model.loss(output, labels, LossCoefficients()).terms
    assert list(terms) == ["cross_entropy", "cluster", "separation", "orthogonality", "l1"]
    vectors = model.assignment.presence_logits if compat else output.assignment
    cosines = [
        F.cosine_similarity(rows[:, s], rows[:, t], dim=0)
        for rows in vectors
        for s in range(3)
        for t in range(3)
        if s != t
    ]
    wanted = sum(c if compat else c.abs() for c in cosines) / (2 * 3)
    torch.testing.assert_close(terms["orthogonality"], wanted)
    assert "l1" not in pool(last_layer="sum").loss(output, labels, LossCoefficients()).terms
