"""What every model of the registry must do. A model's test file gives `build`, and inherits the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from protokern.losses import Labels, LossCoefficients
from protokern.models import ModelOutput, PrototypeModel


class ModelContract:
    """Subclasses give `build(backbone, num_classes) -> model` with at least four prototypes."""

    NUM_CLASSES = 3
    CHANNELS = 2
    TERMS = frozenset({"cross_entropy", "cluster", "separation"})  # of the loss, at least
    PROJECTS = False  # distances are the negatives of projections, and may have either sign
    # By the loss, in any case.
    LAYERS_THAT_LEARN: tuple[str, ...] = ("backbone", "add_on_layers", "prototype_layer")

    def build(self, backbone: nn.Module, num_classes: int) -> PrototypeModel:
        raise NotImplementedError

    @pytest.fixture
    def model(self) -> PrototypeModel:
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Conv2d(self.CHANNELS, 6, 3, 2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        return self.build(backbone, self.NUM_CLASSES)

    @pytest.fixture
    def images(self) -> torch.Tensor:
        return torch.rand(4, self.CHANNELS, 10, 12)

    def test_parts_have_their_names_and_shapes(self, model):
        assert model.num_classes == self.NUM_CLASSES
        assert model.class_identity.shape == (model.num_prototypes, model.num_classes)
        assert model.prototype_layer.num_prototypes == model.num_prototypes
        assert (model.prototype_layer.vectors is not None) == model.pushes
        assert isinstance(model.backbone, nn.Module)
        assert isinstance(model.add_on_layers, nn.Module)
        assert isinstance(model.last_layer, nn.Module)

        assert all(isinstance(getattr(model, part), nn.Module) for part in model.parts)

    def test_slots_hold_the_prototypes_of_the_class_identity(self, model):
        model.harden()
        if model.slots is None:
            return
        assert model.slots.dtype == torch.int64
        wanted = torch.zeros_like(model.class_identity)
        for k, row in enumerate(model.slots.tolist()):
            for p in row:
                wanted[p, k] = 1
        assert torch.equal(model.class_identity, wanted)

    def test_last_layer_makes_the_scores_of_its_input(self, model, images):
        for _ in range(2):
            output = model(images)
            layer_input = model.last_layer_input(output)
            assert torch.equal(model.last_layer(layer_input), model.scores(output))
            assert torch.equal(model.scores(output).argmax(dim=1), output.logits.argmax(dim=1))
            assert model.last_layer_identity.shape == (layer_input.shape[1], model.num_classes)
            model.harden()

    def coefficient(self, model: PrototypeModel, name: str, coefficients: LossCoefficients) -> float:
        """What a term of the loss is multiplied by; a model with a term of its own says so here."""
        return float(getattr(coefficients, name))

    def test_loss_is_the_weighted_sum_of_its_terms_and_has_a_gradient(self, model, images):
        labels = Labels(torch.tensor([0, 1, 2, 1]), torch.tensor([2, 2, 0, 1]), 0.75)
        coefficients = LossCoefficients(cross_entropy=2, cluster=3, separation=-0.5, l1=0.25, orthogonality=0.125)
        for _ in range(2):
            views = torch.cat([images, *(torch.rand_like(images) for _ in range(model.views - 1))])
            total, terms = model.loss(model(views), labels, coefficients, label_smoothing=0.1)
            assert set(terms) >= self.TERMS
            wanted = sum(
                self.coefficient(model, name, coefficients) * float(term.detach()) for name, term in terms.items()
            )
            assert float(total.detach()) == pytest.approx(wanted, rel=1e-5)
            model.zero_grad()
            total.backward()
            for part in self.LAYERS_THAT_LEARN:
                assert any(p.grad is not None for p in getattr(model, part).parameters())
            model.harden()

    def test_output_fields_have_their_shapes(self, model, images):
        output = model(images)
        features = model.features(images)
        assert isinstance(output, ModelOutput)
        assert output.logits.shape == (4, model.num_classes)
        for field in (output.min_distances, output.activations, output.patches):
            assert field.shape == (4, model.num_prototypes)
        assert output.patches.dtype == torch.int64
        assert output.patches.max() < features.shape[2] * features.shape[3]
        assert self.PROJECTS or output.min_distances.min() >= 0

    def test_forward_is_head_of_features(self, model, images):
        model.eval()
        expected = model(images)
        output = model.head(model.features(images))
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.patches, expected.patches)

    def test_images_of_another_size_and_a_batch_of_one_work(self, model):
        assert model(torch.rand(1, self.CHANNELS, 17, 9)).logits.shape == (1, model.num_classes)

    def test_every_parameter_gets_a_gradient(self, model, images):
        output = model(images)
        (output.logits.square().sum() + output.min_distances.sum()).backward()
        missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert missing == []

    def test_state_dict_restores_the_outputs(self, model, images):
        for _ in range(2):
            other = copy.deepcopy(model)
            for parameter in other.parameters():
                nn.init.normal_(parameter)
            other.load_state_dict(model.state_dict())
            assert torch.equal(other.eval()(images).logits, model.eval()(images).logits)
            model.harden()

    def test_evaluation_is_deterministic(self, model, images):
        model.eval().set_progress(1)
        before = torch.get_rng_state()
        assert torch.equal(model(images).logits, model(images).logits)
        assert torch.equal(torch.get_rng_state(), before)

    def test_every_parameter_is_one_that_is_learnt(self, model):
        learnt = [id(parameter) for part in model.parts for parameter in getattr(model, part).parameters()]
        assert sorted(id(parameter) for parameter in model.parameters()) == sorted(learnt)
        assert all(parameter.requires_grad for parameter in model.parameters())

    @pytest.mark.parametrize("index", [[], [0, 0], [-1], [10_000], [[0, 1]]])
    def test_keep_refuses_what_is_no_choice(self, model, index):
        with pytest.raises(
            ValueError, match=r"index: must be distinct prototypes of 0 .. .*Give the prototypes to keep"
        ):
            model.keep_prototypes(index)

    def test_double_precision_works(self, model, images):
        assert model.dtype == torch.float32
        assert model.double().dtype == torch.float64
        assert model(images.double()).logits.dtype == torch.float64

    def test_training_step_runs_under_compile(self, model, images):
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
        model.eval()
        torch.testing.assert_close(compiled(images).logits, model(images).logits)
        compiled(images[:3]).logits.sum().backward()
        assert all(p.grad is not None for p in model.last_layer.parameters())
        assert all(p.grad is not None for p in model.backbone.parameters())


class PointsContract(ModelContract):
    """For models that give their reasons as points. `COVERS_CLASSES`: every class always has a prototype."""

    COVERS_CLASSES = True

    def test_every_input_of_the_last_layer_has_one_class(self, model):
        if not self.COVERS_CLASSES:
            return
        identity = model.last_layer_identity
        assert torch.equal(identity.sum(dim=1), torch.ones(len(identity)))

    def test_influence_is_the_points(self, model, images):
        model.harden()
        output = model(images)
        points = torch.stack([model.influence(output, k) for k in range(model.num_classes)], dim=1)  # (B, K, P)
        torch.testing.assert_close(points.sum(dim=2), model.scores(output), rtol=1e-5, atol=1e-5)

    def test_class_identity_says_yes_or_no(self, model):
        for _ in range(2):
            assert set(model.class_identity.unique().tolist()) <= {0, 1}
            assert not self.COVERS_CLASSES or model.class_identity.sum(dim=0).min() >= 1
            model.harden()

    def test_choices_are_final_after_hardening(self, model, images):
        assert model.is_hard == (not model.chooses)
        if model.chooses:
            with pytest.raises(ValueError, match="model: must have made its choices final"):
                _ = model.prototype_weight
        assert (model.harden() != {}) == model.chooses
        assert model.is_hard
        weight = model.prototype_weight.clone()
        assert model.harden() == {}
        model.set_progress(3)
        assert model.is_hard
        assert torch.equal(model.prototype_weight, weight)

    def test_logits_are_weighted_activations(self, model, images):
        model.harden()
        with torch.no_grad():
            for parameter in model.last_layer.parameters():
                parameter.normal_()
        output = model(images)
        assert model.prototype_weight.shape == (model.num_classes, model.num_prototypes)
        points = output.activations @ model.prototype_weight.T
        torch.testing.assert_close(model.scores(output), points, rtol=1e-5, atol=1e-5)

    def test_kept_prototypes_contribute_as_before(self, model, images):
        model.eval()
        model.harden()
        kept = [model.num_prototypes - 1, 0, 3]
        before = model(images)
        contribution = before.activations[:, None, :] * model.prototype_weight  # (B, K, P)
        identity = model.class_identity[kept]
        model.keep_prototypes(torch.tensor(kept))
        after = model(images)
        assert model.num_prototypes == 3
        assert torch.equal(model.class_identity, identity)
        assert torch.equal(after.patches, before.patches[:, kept])
        torch.testing.assert_close(after.activations[:, None, :] * model.prototype_weight, contribution[:, :, kept])
        torch.testing.assert_close(model.scores(after), contribution[:, :, kept].sum(dim=2))
