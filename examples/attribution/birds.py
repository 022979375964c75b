"""What the examples of this folder explain: a small prototype net and a painted bird."""

from __future__ import annotations

import torch
from torch import Tensor

from protokern.backbones import build_backbone
from protokern.data import SyntheticBirds
from protokern.models import ProtoPNet
from protokern.push import push_prototypes


def net_and_bird() -> tuple[ProtoPNet, Tensor]:
    """A net whose prototypes are patches of painted birds, not trained any further, and another bird (1, 3, 64, 64)."""
    torch.manual_seed(0)
    birds = SyntheticBirds("train", num_classes=2, images_per_class=8, image_size=64, seed=0)
    images, labels = torch.stack([bird for bird, _ in birds]), torch.tensor(birds.labels)
    model = ProtoPNet(build_backbone("tiny", weights="none"), num_classes=2, prototypes_per_class=3).eval()
    push_prototypes(model, [(images[1:], labels[1:])])
    return model, images[:1]
