"""The contract of all models over ProtoPools of every kind."""

from __future__ import annotations

from protokern.models import ProtoPool
from tests.models.contract import PointsContract


class PoolContract(PointsContract):
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
    def build(self, backbone, num_classes, **options):
        return super().build(backbone, num_classes, focal="similarity", **options)


class TestSumOfSlots(PoolContract):
    def build(self, backbone, num_classes, **options):
        return super().build(backbone, num_classes, last_layer="sum", compat=True, **options)


class TestCosine(PoolContract):
    def build(self, backbone, num_classes, **options):
        options |= {"metric": "cosine", "activation": "cosine", "add_on_layers": "linear"}
        return super().build(backbone, num_classes, **options)


class TestSalience(PoolContract):
    def build(self, backbone, num_classes, **options):
        options |= {"metric": "cosine", "activation": "cosine", "add_on_layers": "linear", "salience": 1.0}
        return super().build(backbone, num_classes, **options)


class TestLargePrototypes(PoolContract):
    def build(self, backbone, num_classes, **options):
        return super().build(
            backbone, num_classes, prototype_size=(2, 1), focal="similarity", last_layer="sum", **options
        )


class TestMeanOfTheNearest(PoolContract):
    def build(self, backbone, num_classes, **options):
        return super().build(backbone, num_classes, focal="similarity", top_k=2, **options)
