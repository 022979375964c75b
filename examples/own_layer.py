"""The prototype layer in a net of your own: any features in, similarities out, no other part of protokern needed.

python examples/own_layer.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protokern.nn import PrototypeLayer


class LooksLike(nn.Module):
    """Scores an image by how much its best patch looks like each prototype."""

    def __init__(self, num_prototypes: int = 12, num_classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 32, 4, stride=4), nn.ReLU(), nn.Conv2d(32, 24, 2, stride=2))
        self.prototypes = PrototypeLayer(num_prototypes, prototype_dim=24, metric="cosine", activation="cosine")
        self.scores = nn.Linear(num_prototypes, num_classes, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K), and the nearest patch (B, P) of every prototype as row * columns + column."""
        pool = self.prototypes(self.features(images))
        return self.scores(pool.activation), pool.patch


def make_images(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise with one bright square whose colour, red, green or blue, is the class."""
    images = 0.3 * torch.rand(count, 3, 32, 32, generator=generator)
    labels = torch.randint(3, (count,), generator=generator)
    corners = torch.randint(0, 24, (count, 2), generator=generator)
    for image, label, (row, column) in zip(images, labels, corners, strict=True):
        image[label, row : row + 8, column : column + 8] = 1.0
    return images, labels


def main(steps: int = 60) -> float:
    """Train for a moment and return the accuracy on fresh images."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = LooksLike()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(steps):
        images, labels = make_images(32, generator)
        loss = nn.functional.cross_entropy(net(images)[0], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = make_images(200, generator)
    logits, patches = net(images)
    accuracy = float((logits.argmax(1) == labels).float().mean())
    print(f"accuracy {accuracy:.2f}")
    print(f"in image 0 the prototypes looked at the patches {patches[0].tolist()} of a 4 x 4 grid")
    return accuracy


if __name__ == "__main__":
    main()
