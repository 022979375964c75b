"""The networks of the released TesNet, EvalProtoPNet and ST-ProtoPNet programs, written anew from their descriptions.

Attribute names, formulas and the order of operations are the programs'; the backbone is any small net.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def products_with_unit_prototypes(features, prototypes):
    return F.conv2d(features, F.normalize(prototypes, p=2, dim=1))


def pool_largest(maps):
    return F.max_pool2d(maps, kernel_size=maps.shape[2:]).flatten(1)


def add_on(channels, depth, *between):
    return nn.Sequential(nn.Conv2d(channels, depth, 1), *between)


class _UnitPrototypes(nn.Module):
    """What TesNet and EvalProtoPNet share: projections, and negative cosines as "distances"."""

    def __init__(self, features, prototype_shape, num_classes, channels):
        super().__init__()
        self.img_size = 224
        self.prototype_shape = prototype_shape
        self.num_prototypes = prototype_shape[0]
        self.num_classes = num_classes
        self.num_prototypes_per_class = self.num_prototypes // num_classes
        self.epsilon = 1e-4
        self.prototype_activation_function = "log"
        self.prototype_class_identity = F.one_hot(
            torch.arange(self.num_prototypes) // self.num_prototypes_per_class, num_classes
        ).float()
        self.features = features
        self.add_on_layers = add_on(channels, prototype_shape[1], nn.Sigmoid())
        self.prototype_vectors = nn.Parameter(torch.rand(prototype_shape))
        self.ones = nn.Parameter(torch.ones(prototype_shape), requires_grad=False)

    def _cosine_convolution(self, x):
        return -products_with_unit_prototypes(F.normalize(x, p=2, dim=1), self.prototype_vectors)

    def _project2basis(self, x):
        return products_with_unit_prototypes(x, self.prototype_vectors)

    def global_max_pooling(self, distances):
        return pool_largest(distances)

    def global_min_pooling(self, distances):
        return -pool_largest(-distances)


class TESNet(_UnitPrototypes):
    def __init__(self, features, prototype_shape, num_classes, channels):
        super().__init__(features, prototype_shape, num_classes, channels)
        self.last_layer = nn.Linear(self.num_prototypes, num_classes, bias=False)
        self.last_layer.weight.data.copy_(1.5 * self.prototype_class_identity.T - 0.5)

    def conv_features(self, x):
        return self.add_on_layers(self.features(x))

    def prototype_distances(self, x):
        features = self.conv_features(x)
        cosines = self._cosine_convolution(features)
        return self._project2basis(features), cosines

    def forward(self, x):
        projections, cosines = self.prototype_distances(x)
        smallest = self.global_min_pooling(cosines)
        return self.last_layer(self.global_max_pooling(projections)), smallest

    def push_forward(self, x):
        features = self.conv_features(x)
        return features, -self._project2basis(features)


class EveryStage(nn.Module):
    """A backbone that can return all of its maps; the first has cells of half the width."""

    def __init__(self, channels):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=1, padding=1), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(4, channels, 2, stride=2), nn.ReLU())

    def forward_all(self, x):
        shallow = self.stem(x)
        deep = self.stage(shallow)
        return deep, [shallow, deep]


class OursNet(_UnitPrototypes):
    """EvalProtoPNet."""

    def __init__(self, features, prototype_shape, num_classes, channels):
        super().__init__(features, prototype_shape, num_classes, channels)
        self.shallow_layer_idx = 0
        self.activation_weight = nn.Parameter(torch.ones(self.num_prototypes))

    def conv_features(self, x):
        deep, every = self.features.forward_all(x)
        return self.add_on_layers(deep), every

    def prototype_distances(self, x):
        features, every = self.conv_features(x)
        cosines = self._cosine_convolution(features)
        return self._project2basis(features), cosines, every

    def forward_SA_module(self, prototype_activations):
        weights = self.activation_weight.view(self.num_classes, self.num_prototypes_per_class)
        weights = weights.softmax(dim=-1) * self.num_prototypes_per_class
        by_class = prototype_activations.view(-1, self.num_classes, self.num_prototypes_per_class)
        return (by_class * weights).sum(-1)

    def forward(self, x):
        projections, cosines, every = self.prototype_distances(x)
        smallest = self.global_min_pooling(cosines)
        logits = self.forward_SA_module(self.global_max_pooling(projections))
        side = projections.shape[-1]
        shallow = every[self.shallow_layer_idx]
        count, channels, wide = shallow.shape[0], shallow.shape[1], shallow.shape[-1]
        cells = shallow.reshape(count, channels, side, wide // side, side, wide // side)
        cells = cells.permute(0, 1, 3, 5, 2, 4).reshape(count, -1, side * side)
        return logits, (smallest, projections.flatten(start_dim=2), cells, every[-1].flatten(start_dim=2))

    def push_forward(self, x):
        features, _ = self.conv_features(x)
        return features, self._project2basis(features)


class _TwoBranches(nn.Module):
    def __init__(self, features, prototype_shape, num_classes, channels):
        super().__init__()
        self.img_size = 224
        self.prototype_shape = prototype_shape
        self.num_prototypes = prototype_shape[0]
        self.num_classes = num_classes
        self.num_prototypes_per_class = self.num_prototypes // num_classes
        self.epsilon = 1e-4
        identity = F.one_hot(torch.arange(self.num_prototypes) // self.num_prototypes_per_class, num_classes).float()
        self.prototype_class_identity = identity
        self.features = features
        self.add_on_layers_trivial = self.make_add_on(channels, prototype_shape[1])
        self.add_on_layers_support = self.make_add_on(channels, prototype_shape[1])
        self.prototype_vectors_trivial = nn.Parameter(torch.rand(prototype_shape))
        self.prototype_vectors_support = nn.Parameter(torch.rand(prototype_shape))
        self.last_layer_trivial = nn.Linear(self.num_prototypes, num_classes, bias=False)
        self.last_layer_support = nn.Linear(self.num_prototypes, num_classes, bias=False)
        self.ones = nn.Parameter(torch.ones(prototype_shape), requires_grad=False)
        for layer in (self.last_layer_trivial, self.last_layer_support):
            layer.weight.data.copy_(1.5 * identity.T - 0.5)

    def conv_features(self, x):
        x = self.features(x)
        return self.add_on_layers_trivial(x), self.add_on_layers_support(x)

    def _cosine_convolution(self, prototypes, x):
        return products_with_unit_prototypes(F.normalize(x, p=2, dim=1), prototypes)

    def global_max_pooling(self, maps):
        return pool_largest(maps)

    def of_branch(self, x, branch):
        trivial, support = self.conv_features(x)
        return (trivial, self.prototype_vectors_trivial) if branch == 0 else (support, self.prototype_vectors_support)

    def push_forward_trivial(self, x):
        return self.push_forward_of(x, 0)

    def push_forward_support(self, x):
        return self.push_forward_of(x, 1)


class CroppedSTProtoPNet(_TwoBranches):
    @staticmethod
    def make_add_on(channels, depth):
        return add_on(channels, depth, nn.Tanh(), nn.Conv2d(depth, depth, 1), nn.Tanh())

    def _project2prototype(self, prototypes, x):
        return products_with_unit_prototypes(x, prototypes)

    def prototype_similarities(self, x):
        trivial, support = self.conv_features(x)
        cosines = (
            self._cosine_convolution(self.prototype_vectors_trivial, trivial),
            self._cosine_convolution(self.prototype_vectors_support, support),
        )
        return (
            self._project2prototype(self.prototype_vectors_trivial, trivial),
            self._project2prototype(self.prototype_vectors_support, support),
            *cosines,
        )

    def forward(self, x):
        trivial, support, *cosines = self.prototype_similarities(x)
        logits = (
            self.last_layer_trivial(self.global_max_pooling(trivial)),
            self.last_layer_support(self.global_max_pooling(support)),
        )
        return logits, tuple(self.global_max_pooling(one) for one in cosines), (trivial, support)

    def push_forward_of(self, x, branch):
        features, prototypes = self.of_branch(x, branch)
        return F.normalize(features, p=2, dim=1), -self._project2prototype(prototypes, features)


class FullSTProtoPNet(_TwoBranches):
    @staticmethod
    def make_add_on(channels, depth):
        return nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(channels, depth, 1), nn.Conv2d(depth, depth, 1)
        )

    def prototype_distances(self, x):
        trivial, support = self.conv_features(x)
        return (
            torch.relu(self._cosine_convolution(self.prototype_vectors_trivial, trivial)),
            torch.relu(self._cosine_convolution(self.prototype_vectors_support, support)),
        )

    def forward(self, x):
        maps = self.prototype_distances(x)
        trivial, support = (self.global_max_pooling(one) for one in maps)
        return (self.last_layer_trivial(trivial), self.last_layer_support(support)), (trivial, support), maps

    def push_forward_of(self, x, branch):
        features, prototypes = self.of_branch(x, branch)
        return F.normalize(features, p=2, dim=1), -self._cosine_convolution(prototypes, features)
