"""Birds that differ in one thing alone: the reasons that are found are the true ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from protokern.backbones import build_backbone
from protokern.data import SyntheticBirds
from protokern.explain import importance
from protokern.losses import Labels, LossCoefficients
from protokern.models import ProtoPNet
from protokern.push import push_prototypes


class EvenLight(nn.Module):
    """Takes mean and contrast out of every image.

    Brightness and contrast change all pixels at once, and a net of a few seconds has not learnt that they do not
    matter; a net that cannot see them leaves colour, shape and texture to be told apart.
    """

    def forward(self, images: Tensor) -> Tensor:
        return (images - images.mean((1, 2, 3), keepdim=True)) / images.std((1, 2, 3), keepdim=True)


def pushed_model(differ_in: str, num_classes: int, images_per_class: int, prototypes: int, size: int) -> ProtoPNet:
    """The tiny net, trained for eight epochs and pushed; the same for both kinds of birds."""
    birds = SyntheticBirds(
        "train", num_classes=num_classes, images_per_class=images_per_class, image_size=size, differ_in=differ_in
    )
    images, labels = torch.stack([birds[index][0] for index in range(len(birds))]), torch.tensor(birds.labels)
    torch.manual_seed(0)
    model = ProtoPNet(
        nn.Sequential(EvenLight(), build_backbone("tiny", weights="none")),
        num_classes,
        prototypes_per_class=prototypes,
        prototype_dim=16,
        image_size=size,
        metric="cosine",
        activation="cosine",
        add_on_layers="linear",
        correct_class_weight=3.0,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(8):
        for index in torch.randperm(len(labels)).split(16):
            loss = model.loss(model(images[index]), Labels(labels[index]), LossCoefficients()).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    push_prototypes(model, zip(images.split(32), labels.split(32), strict=True))
    return model


@pytest.mark.parametrize(
    ("differ_in", "counts", "true_reasons"),
    [("colour", (8, 12, 1, 48), {"hue", "saturation"}), ("beak", (2, 40, 2, 64), {"shape"})],
)
def test_the_top_reason_is_what_the_birds_differ_in(
    differ_in: str, counts: tuple[int, int, int, int], true_reasons: set[str]
) -> None:
    model = pushed_model(differ_in, *counts)
    birds = SyntheticBirds("test", num_classes=counts[0], images_per_class=4, image_size=counts[3], differ_in=differ_in)
    found = importance(model, (birds.display_image(index) for index in range(len(birds))))
    means = dict(zip(found.names, found.score.mean(axis=1).tolist(), strict=True))
    first, second, *_ = sorted(means, key=means.__getitem__, reverse=True)
    assert first in true_reasons, means
    assert means[first] > 1.25 * means[second], means
    assert max(abs(means[name]) for name in ("brightness", "contrast")) < 0.01
