"""The networks of the released ProtoPFormer and ProtoViT programs, written anew from their descriptions.

The transformer is a convolution whose cells are the tokens; what the programs send to the GPU goes to `device`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .programs import squared_l2_by_convolution


class ProtoPFormer(nn.Module):
    """`PPNet` of ProtoPFormer: prototypes for the class token and for the tokens that it attends to most."""

    def __init__(self, prototype_shape, num_classes, channels, kept, prototype_activation_function="log"):
        super().__init__()
        self.prototype_shape = list(prototype_shape)
        self.num_prototypes = prototype_shape[0]
        self.num_classes = num_classes
        self.reserve_layer_nums = [(1, kept)]
        self.use_global = True
        self.global_coe = 0.3
        self.epsilon = 1e-4
        self.prototype_activation_function = prototype_activation_function
        self.features = nn.Conv2d(3, channels, 3, stride=2)
        depth = prototype_shape[1]
        self.add_on_layers = nn.Sequential(nn.Conv2d(channels, depth, 1), nn.Sigmoid())
        self.num_prototypes_global = 2 * num_classes
        self.prototype_vectors = nn.Parameter(torch.rand(prototype_shape))
        self.prototype_vectors_global = nn.Parameter(torch.rand(self.num_prototypes_global, depth, 1, 1))
        self.ones = nn.Parameter(torch.ones(prototype_shape), requires_grad=False)
        self.last_layer = nn.Linear(self.num_prototypes, num_classes, bias=False)
        self.last_layer_global = nn.Linear(self.num_prototypes_global, num_classes, bias=False)

    def device(self, tensor):
        return tensor.to(self.prototype_vectors)

    def conv_features(self, x, reserve_layer_nums):
        tokens = self.features(x).flatten(2)  # (B, C, N)
        class_token = tokens.mean(2, keepdim=True)
        attention = (tokens * class_token).sum(1)  # (B, N)
        kept = attention.topk(reserve_layer_nums[-1][1], dim=1).indices.sort(dim=1).values
        tokens = tokens.gather(2, kept[:, None].expand(-1, tokens.shape[1], -1))
        side = int(tokens.shape[2] ** 0.5)
        class_token, tokens = class_token.unflatten(2, (1, 1)), tokens.unflatten(2, (side, side))
        return (self.add_on_layers(class_token), self.add_on_layers(tokens)), (None, attention, None)

    def _l2_convolution_single(self, x, prototype_vectors):
        ones = self.device(torch.ones(prototype_vectors.shape))
        return squared_l2_by_convolution(x, prototype_vectors, ones)

    def prototype_distances(self, x, reserve_layer_nums):
        return self.conv_features(x, reserve_layer_nums)

    def distance_2_similarity(self, distances):
        if self.prototype_activation_function == "log":
            return torch.log((distances + 1) / (distances + self.epsilon))
        if self.prototype_activation_function == "linear":
            return -distances
        return self.prototype_activation_function(distances)

    def get_activations(self, tokens, prototype_vectors):
        distances = self._l2_convolution_single(tokens, prototype_vectors)
        maps = self.distance_2_similarity(distances)
        side = maps.shape[-1]
        activations = F.max_pool2d(maps, kernel_size=(side, side)) if side > 1 else maps
        activations = activations.reshape(len(tokens), len(prototype_vectors))
        return (activations, (distances, maps)) if self.use_global else activations

    def forward(self, x):
        (class_token, tokens), (_, attention, _) = self.prototype_distances(x, self.reserve_layer_nums)
        of_class, _ = self.get_activations(class_token, self.prototype_vectors_global)
        of_tokens, (distances, maps) = self.get_activations(tokens, self.prototype_vectors)
        logits_global, logits_local = self.last_layer_global(of_class), self.last_layer(of_tokens)
        logits = self.global_coe * logits_global + (1.0 - self.global_coe) * logits_local
        if not self.training:
            return logits, (attention, distances, logits_global, logits_local)
        return logits, (None, torch.zeros(1), maps, attention.detach(), attention.shape[-1])

    def push_forward(self, x):
        (_, tokens), (_, attention, _) = self.prototype_distances(x, self.reserve_layer_nums)
        return attention, self.get_activations(tokens, self.prototype_vectors)[1][1]


class ProtoViT(nn.Module):
    """`PPNet` of ProtoViT: sub-patches matched greedily with neighbouring tokens, on a grid of 14 x 14."""

    def __init__(self, prototype_shape, num_classes, radius=1):
        super().__init__()
        self.prototype_shape = prototype_shape
        self.num_prototypes = prototype_shape[0]
        self.num_classes = num_classes
        self.epsilon = 1e-4
        self.radius = radius
        self.temp = 100.0
        self.features = nn.Conv2d(3, prototype_shape[1], 1)
        self.prototype_vectors = nn.Parameter(torch.randn(prototype_shape))
        self.patch_select = nn.Parameter(0.02 * torch.randn(1, prototype_shape[0], prototype_shape[2]))
        self.ones = nn.Parameter(torch.ones(prototype_shape), requires_grad=False)
        self.last_layer = nn.Linear(self.num_prototypes, num_classes, bias=False)

    def device(self, tensor):
        return tensor.to(self.prototype_vectors.device)

    def conv_features(self, x):
        tokens = self.features(x)
        return tokens - tokens.mean((2, 3), keepdim=True)

    def subpatch_dist(self, x):
        features = self.conv_features(x)
        unit = F.normalize(features, p=2, dim=1)
        prototypes = F.normalize(self.prototype_vectors, p=2, dim=1)
        cosines = [F.conv2d(unit, part[..., None, None]).flatten(2) for part in prototypes.unbind(2)]
        return features, self.device(torch.stack(cosines, dim=3))

    def neigboring_mask(self, center_indices):
        row, column = center_indices // 14, center_indices % 14  # (B, P, 1)
        cells = torch.arange(14 * 14)
        near = ((cells // 14 - row).abs() <= self.radius) & ((cells % 14 - column).abs() <= self.radius)
        return near.float()

    def greedy_distance(self, x, get_f=False):
        features, cosines = self.subpatch_dist(x)
        is_free = torch.ones_like(cosines)
        near = torch.ones_like(cosines[..., 0])
        parts, places, values = [], [], []
        for _ in range(self.prototype_shape[-1]):
            masked = cosines + (1 - is_free * near.unsqueeze(-1)) * -1e5
            best, place = masked.max(2)  # (B, P, S)
            value, part = best.max(-1, keepdim=True)  # (B, P, 1)
            place = place.gather(-1, part)
            near = self.neigboring_mask(place)
            is_free = is_free.scatter(2, place.unsqueeze(-1).expand(-1, -1, -1, is_free.shape[3]), 0)
            is_free = is_free.scatter(3, part.unsqueeze(2).expand(-1, -1, is_free.shape[2], -1), 0)
            parts.append(part)
            places.append(place)
            values.append(value)
        order = torch.cat(parts, -1).sort(-1).indices
        cosine, cell = (torch.cat(found, -1).gather(-1, order) for found in (values, places))
        slots = torch.sigmoid(self.patch_select * self.temp)
        factor = slots.sum(-1).unsqueeze(-1) + 1e-10
        similarities = (cosine * (slots * self.prototype_shape[-1] / factor)).sum(-1)
        distances = self.prototype_shape[-1] - similarities
        return (features, distances, cell.float()) if get_f else (similarities, distances, cosine)

    def push_forward(self, x):
        return self.greedy_distance(x, get_f=True)

    def forward(self, x):
        similarities, distances, values = self.greedy_distance(x)
        return self.last_layer(similarities), distances, values
