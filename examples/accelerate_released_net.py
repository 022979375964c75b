"""A network of the released ProtoPNet program, accelerated: same results, less memory, exact at its prototypes.

In the program itself two lines do it, after the network is built or loaded and before it is wrapped in DataParallel:

    from protokern.interop import accelerate
    ppnet = accelerate(ppnet)

python examples/accelerate_released_net.py
"""

from __future__ import annotations

import copy
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protokern.interop import accelerate


class PPNet(nn.Module):
    """Stands for the class of that name in the program, with its attributes, so that the example runs alone."""

    def __init__(self, features: nn.Module, prototype_shape: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        self.prototype_shape, self.num_prototypes, self.num_classes = prototype_shape, prototype_shape[0], num_classes
        self.epsilon = 1e-4
        self.prototype_activation_function = "log"
        per_class = self.num_prototypes // num_classes
        self.prototype_class_identity = F.one_hot(torch.arange(self.num_prototypes) // per_class, num_classes).float()
        self.features = features
        self.add_on_layers = nn.Sequential(nn.LazyConv2d(prototype_shape[1], 1), nn.Sigmoid())
        self.prototype_vectors = nn.Parameter(torch.rand(prototype_shape))
        self.ones = nn.Parameter(torch.ones(prototype_shape), requires_grad=False)
        self.last_layer = nn.Linear(self.num_prototypes, num_classes, bias=False)
        self.last_layer.weight.data.copy_(1.5 * self.prototype_class_identity.T - 0.5)

    def conv_features(self, x: Tensor) -> Tensor:
        """Features (B, D, H, W) of images."""
        return self.add_on_layers(self.features(x))

    def _l2_convolution(self, x: Tensor) -> Tensor:
        norms = F.conv2d(x**2, self.ones)
        own_norms = (self.prototype_vectors**2).sum((1, 2, 3)).view(-1, 1, 1)
        return F.relu(norms + (own_norms - 2 * F.conv2d(x, self.prototype_vectors)))

    def prototype_distances(self, x: Tensor) -> Tensor:
        """Distances (B, P, H, W)."""
        return self._l2_convolution(self.conv_features(x))

    def distance_2_similarity(self, distances: Tensor) -> Tensor:
        """Log similarity."""
        return torch.log((distances + 1) / (distances + self.epsilon))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and smallest distances (B, P)."""
        distances = self.prototype_distances(x)
        nearest = -F.max_pool2d(-distances, kernel_size=distances.shape[2:]).view(-1, self.num_prototypes)
        return self.last_layer(self.distance_2_similarity(nearest)), nearest

    def push_forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and distances."""
        features = self.conv_features(x)
        return features, self._l2_convolution(features)


def train_step(net: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, float]:
    """Logits, gradient of the prototypes and seconds of one forward and backward pass."""
    net.zero_grad()
    start = time.perf_counter()
    logits, nearest = net(images)
    (F.cross_entropy(logits, labels) + 0.8 * nearest.mean()).backward()
    seconds = time.perf_counter() - start
    return logits.detach(), net.prototype_vectors.grad, seconds


def main() -> None:
    """Compare the network before and after."""
    torch.manual_seed(0)
    images, labels = torch.rand(16, 3, 112, 112), torch.arange(16) % 20
    released = PPNet(nn.Conv2d(3, 32, 8, stride=8), (1000, 128, 1, 1), num_classes=20)
    released(images)  # the first call finds the channels
    accelerated = accelerate(copy.deepcopy(released))
    print(f"same keys {list(released.state_dict()) == list(accelerated.state_dict())}")
    # In float64, where no two patches are equally near but for a rounding.
    old, new = (train_step(copy.deepcopy(net).double(), images.double(), labels) for net in (released, accelerated))
    print(f"largest difference of a logit {(new[0] - old[0]).abs().max() / old[0].abs().max():.1e}")
    print(f"largest difference of a gradient {(new[1] - old[1]).abs().max() / old[1].abs().max():.1e}")
    old_seconds, seconds = (
        min(train_step(net, images, labels)[2] for _ in range(5)) for net in (released, accelerated)
    )
    print(f"forward and backward {1000 * old_seconds:.0f} ms -> {1000 * seconds:.0f} ms")
    with torch.no_grad():  # what a push does: the prototypes become patches of an image
        patches = accelerated.conv_features(images)[0].flatten(1).T
        for net in (released, accelerated):
            net.prototype_vectors[: len(patches)].copy_(patches[:, :, None, None])
            similarity = net.distance_2_similarity(net(images)[1][0, : len(patches)])
            print(f"similarity to its own patch, {type(net).__name__}: {similarity.min():.4f}, should be 9.2103")


if __name__ == "__main__":
    main()
