"""The networks of the released ProtoPNet and ProtoPool programs, written anew from their descriptions.

Attribute names, formulas and the order of operations are the programs'; the backbone is any small net.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def squared_l2_by_convolution(features: Tensor, prototypes: Tensor, ones: Tensor) -> Tensor:
    """|x|^2 - 2 x.p + |p|^2 with the squared norms of the patches from a convolution, clamped at zero."""
    norms = F.conv2d(features**2, ones)
    products = F.conv2d(features, prototypes)
    own = (prototypes**2).sum((1, 2, 3)).view(-1, 1, 1)
    return F.relu(norms + (-2 * products + own))


class PPNet(nn.Module):
    """ProtoPNet: P / K prototypes for each class; the similarity to the nearest patch."""

    def __init__(self, features, prototype_shape, num_classes, channels, prototype_activation_function="log"):
        super().__init__()
        self.img_size = 224
        self.prototype_shape = prototype_shape
        self.num_prototypes = prototype_shape[0]
        self.num_classes = num_classes
        self.epsilon = 1e-4
        self.prototype_activation_function = prototype_activation_function
        per_class = self.num_prototypes // num_classes
        # A plain tensor, neither parameter nor buffer.
        self.prototype_class_identity = F.one_hot(torch.arange(self.num_prototypes) // per_class, num_classes).float()
        self.proto_layer_rf_info = [7, 32, 268, 16.0]
        self.features = features
        depth = prototype_shape[1]
        self.add_on_layers = nn.Sequential(
            nn.Conv2d(channels, depth, 1), nn.ReLU(), nn.Conv2d(depth, depth, 1), nn.Sigmoid()
        )
        self.prototype_vectors = nn.Parameter(torch.rand(prototype_shape))
        self.ones = nn.Parameter(torch.ones(prototype_shape), requires_grad=False)
        self.last_layer = nn.Linear(self.num_prototypes, num_classes, bias=False)
        self.last_layer.weight.data.copy_(1.5 * self.prototype_class_identity.T - 0.5)

    def conv_features(self, x):
        return self.add_on_layers(self.features(x))

    def _l2_convolution(self, x):
        return squared_l2_by_convolution(x, self.prototype_vectors, self.ones)

    def prototype_distances(self, x):
        return self._l2_convolution(self.conv_features(x))

    def distance_2_similarity(self, distances):
        if self.prototype_activation_function == "log":
            return torch.log((distances + 1) / (distances + self.epsilon))
        if self.prototype_activation_function == "linear":
            return -distances
        return self.prototype_activation_function(distances)

    def forward(self, x):
        distances = self.prototype_distances(x)
        nearest = -F.max_pool2d(-distances, kernel_size=(distances.size(2), distances.size(3)))
        nearest = nearest.view(-1, self.num_prototypes)
        return self.last_layer(self.distance_2_similarity(nearest)), nearest

    def push_forward(self, x):
        conv_output = self.conv_features(x)
        return conv_output, self._l2_convolution(conv_output)

    def prune_prototypes(self, prototypes_to_prune):
        keep = sorted(set(range(self.num_prototypes)) - set(prototypes_to_prune))
        self.prototype_vectors = nn.Parameter(self.prototype_vectors.data[keep])
        self.prototype_shape = tuple(self.prototype_vectors.shape)
        self.num_prototypes = len(keep)
        self.last_layer.in_features = len(keep)
        self.last_layer.weight.data = self.last_layer.weight.data[:, keep]
        self.ones = nn.Parameter(self.ones.data[keep], requires_grad=False)
        self.prototype_class_identity = self.prototype_class_identity[keep]

    def __repr__(self):
        return f"PPNet(prototype_shape: {self.prototype_shape}, epsilon: {self.epsilon})"


class PrototypeChooser(nn.Module):
    """ProtoPool: shared prototypes in slots of the classes; nearest minus mean similarity."""

    def __init__(self, features, num_prototypes, num_descriptive, num_classes, proto_depth, channels, **options):
        super().__init__()
        self.num_classes = num_classes
        self.epsilon = 1e-4
        self.num_descriptive = num_descriptive
        self.num_prototypes = num_prototypes
        self.proto_depth = proto_depth
        self.prototype_shape = (num_prototypes, proto_depth, 1, 1)
        self.use_thresh = False
        self.prototype_activation_function = options.get("prototype_activation_function", "log")
        self.alfa, self.beta = 1, 0
        self.proto_presence = nn.Parameter(torch.zeros(num_classes, num_prototypes, num_descriptive))
        nn.init.xavier_normal_(self.proto_presence)
        self.features = features
        self.add_on_layers = nn.Sequential(nn.Conv2d(channels, proto_depth, 1), nn.Sigmoid())
        self.prototype_vectors = nn.Parameter(torch.rand(self.prototype_shape))
        self.ones = nn.Parameter(torch.ones(self.prototype_shape), requires_grad=False)
        self.use_last_layer = options.get("use_last_layer", True)
        slots = num_classes * num_descriptive
        if self.use_last_layer:
            self.prototype_class_identity = F.one_hot(torch.arange(slots) // num_descriptive, num_classes).float()
            self.last_layer: nn.Module = nn.Linear(slots, num_classes, bias=False)
            self.last_layer.weight.data.copy_(self.prototype_class_identity.T)
        else:
            self.last_layer = nn.Identity()

    def conv_features(self, x):
        return self.add_on_layers(self.features(x))

    def _l2_convolution(self, x):
        return squared_l2_by_convolution(x, self.prototype_vectors, self.ones)

    def _mix_l2_convolution(self, distances, proto_presence):
        return torch.einsum("bp,cpn->bcn", distances, proto_presence)

    def prototype_distances(self, x):
        return self._l2_convolution(self.conv_features(x))

    def distance_2_similarity(self, distances):
        if self.prototype_activation_function == "log":
            return torch.log((distances + 1) / (distances + self.epsilon))
        if self.prototype_activation_function == "linear":
            return 1 / (distances + 1)
        raise NotImplementedError

    def forward(self, x, gumbel_scale=0):
        if gumbel_scale == 0:
            presence = torch.softmax(self.proto_presence, dim=1)
        else:
            presence = F.gumbel_softmax(self.proto_presence * gumbel_scale, dim=1, tau=0.5)
        distances = self.prototype_distances(x)
        grid = (distances.size(2), distances.size(3))
        nearest = -F.max_pool2d(-distances, kernel_size=grid).squeeze()
        average = F.avg_pool2d(distances, kernel_size=grid).squeeze()
        similarity = self.distance_2_similarity(self._mix_l2_convolution(nearest, presence))
        similarity = similarity - self.distance_2_similarity(self._mix_l2_convolution(average, presence))
        scores = self.last_layer(similarity.flatten(start_dim=1)) if self.use_last_layer else similarity.sum(dim=-1)
        return scores, nearest, presence
