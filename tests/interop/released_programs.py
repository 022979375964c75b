"""The networks of the released TesNet, ProtoTree and PIP-Net programs, written anew from their descriptions.

Names of attributes and tensors, formulas and the order of operations are the programs'. ProtoPNet and ProtoPool are in
programs.py, CaBRNet is in cabrnet_programs.py.
"""

from __future__ import annotations

import math
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .programs import PPNet


class SmallResNet(nn.Module):
    """The form of the programs' own copies of a ResNet: no pooling, no classifier; basic blocks."""

    def __init__(self, blocks=(1, 1, 1, 1), strides=(1, 2, 2, 2)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        width = 64
        for number, (count, stride) in enumerate(zip(blocks, strides, strict=True)):
            layers = [BasicBlock(width, 64 * 2**number, stride)]
            width = 64 * 2**number
            layers += [BasicBlock(width, width, 1) for _ in range(count - 1)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*layers))

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class BasicBlock(nn.Module):
    def __init__(self, width, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(width, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or width != planes:
            self.downsample = nn.Sequential(nn.Conv2d(width, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class SmallVGG(nn.Module):
    """The form of the programs' own copies of a VGG, which keeps its layers in `features`."""

    def __init__(self, layers=(8, "M", 16, "M"), norms=False):
        super().__init__()
        found: list[nn.Module] = []
        width = 3
        for one in layers:
            if one == "M":
                found.append(nn.MaxPool2d(2, 2))
                continue
            found += [nn.Conv2d(width, one, 3, padding=1), *([nn.BatchNorm2d(one)] if norms else []), nn.ReLU()]
            width = one
        self.features = nn.Sequential(*found)

    def forward(self, x):
        return self.features(x)


class TESNet(PPNet):
    """TesNet: projections on unit prototypes; the cosines are for the losses."""

    def _cosine_convolution(self, x):
        return -F.conv2d(F.normalize(x, p=2, dim=1), F.normalize(self.prototype_vectors, p=2, dim=1))

    def _project2basis(self, x):
        return F.conv2d(x, F.normalize(self.prototype_vectors, p=2, dim=1))

    def prototype_distances(self, x):
        features = self.conv_features(x)
        return self._project2basis(features), self._cosine_convolution(features)

    def forward(self, x):
        projection, cosine = self.prototype_distances(x)
        activations = F.max_pool2d(projection, projection.shape[2:]).view(-1, self.num_prototypes)
        return self.last_layer(activations), -F.max_pool2d(-cosine, cosine.shape[2:]).view(-1, self.num_prototypes)

    def push_forward(self, x):
        features = self.conv_features(x)
        return features, -self._project2basis(features)


class Leaf(nn.Module):
    def __init__(self, index, num_classes, is_log):
        super().__init__()
        self.index, self._log_probabilities = index, is_log
        self._dist_params = nn.Parameter(torch.randn(num_classes) * 3, requires_grad=False)
        self.leaves, self.branches = {self}, set()

    def forward(self, xs, **kwargs):
        attributes = kwargs.setdefault("attr", {})
        attributes.setdefault((self, "pa"), torch.ones(len(xs)))
        distribution = self._dist_params.log_softmax(0) if self._log_probabilities else self._dist_params.softmax(0)
        attributes[self, "ds"] = distribution.view(1, -1).repeat(len(xs), 1)
        return attributes[self, "ds"], attributes


class Branch(nn.Module):
    def __init__(self, index, left, right, is_log):
        super().__init__()
        self.index, self._log_probabilities = index, is_log
        self.l, self.r = left, right

    @property
    def leaves(self):
        return self.l.leaves | self.r.leaves

    @property
    def branches(self):
        return {self} | self.l.branches | self.r.branches

    def forward(self, xs, **kwargs):
        attributes = kwargs.setdefault("attr", {})
        here = attributes.setdefault((self, "pa"), torch.ones(len(xs)))
        ps = kwargs["conv_net_output"][kwargs["out_map"][self]].squeeze(1)
        attributes[self, "ps"] = ps
        if self._log_probabilities:
            x = ps.abs() + 1e-7
            rest = torch.where(x < math.log(2), torch.log(-torch.expm1(-x)), torch.log1p(-torch.exp(-x)))
            attributes[self.l, "pa"], attributes[self.r, "pa"] = rest + here, ps + here
        else:
            attributes[self.l, "pa"], attributes[self.r, "pa"] = (1 - ps) * here, ps * here
        left, right = (child.forward(xs, **kwargs)[0] for child in (self.l, self.r))
        ps = ps.view(-1, 1)
        if self._log_probabilities:
            return torch.logsumexp(torch.stack((rest.view(-1, 1) + left, ps + right)), dim=0), attributes
        return (1 - ps) * left + ps * right, attributes


class L2Conv2D(nn.Module):
    def __init__(self, count, depth):
        super().__init__()
        self.prototype_vectors = nn.Parameter(torch.randn(count, depth, 1, 1) * 0.1 + 0.5)

    def forward(self, xs):
        norms = F.conv2d(xs**2, torch.ones_like(self.prototype_vectors))
        own = (self.prototype_vectors**2).sum((1, 2, 3)).view(-1, 1, 1)
        return torch.sqrt(torch.abs(norms + own - 2 * F.conv2d(xs, self.prototype_vectors)) + 1e-14)


class ProtoTree(nn.Module):
    """ProtoTree: "present" goes to `r`, and which branch has which prototype is arbitrary."""

    def __init__(self, features, channels, num_classes, depth, num_features, is_log=False):
        super().__init__()
        self._num_classes, self._log_probabilities, self._kontschieder_normalization = num_classes, is_log, False
        self._root = self._grow(0, depth, num_classes)[0]
        self._parents = {self._root: None}
        self._net = features
        self._add_on = nn.Sequential(nn.Conv2d(channels, num_features, 1, bias=False), nn.Sigmoid())
        order = sorted(self.branches, key=lambda branch: branch.index)
        random.Random(3).shuffle(order)
        self._out_map = {branch: number for number, branch in enumerate(order)}
        self.num_prototypes = len(order)
        self.prototype_layer = L2Conv2D(len(order), num_features)

    def _grow(self, index, depth, num_classes):
        if depth == 0:
            return Leaf(index, num_classes, self._log_probabilities), index + 1
        left, following = self._grow(index + 1, depth - 1, num_classes)
        right, following = self._grow(following, depth - 1, num_classes)
        return Branch(index, left, right, self._log_probabilities), following

    @property
    def branches(self):
        return self._root.branches

    @property
    def leaves(self):
        return self._root.leaves

    @property
    def nodes(self):
        return self.branches | self.leaves

    def forward_partial(self, xs):
        features = self._add_on(self._net(xs))
        return features, self.prototype_layer(features), dict(self._out_map)

    def forward(self, xs, sampling_strategy="distributed", **kwargs):
        _, distances, kwargs["out_map"] = self.forward_partial(xs)
        nearest = -F.max_pool2d(-distances, distances.shape[2:]).view(len(xs), self.num_prototypes)
        similarities = -nearest if self._log_probabilities else torch.exp(-nearest)
        kwargs["conv_net_output"] = similarities.chunk(similarities.size(1), dim=1)
        out, attr = self._root.forward(xs, **kwargs)
        info: dict[str, Any] = {"pa_tensor": {node.index: attr[node, "pa"].unsqueeze(1) for node in self.nodes}}
        info["ps"] = {node.index: attr[node, "ps"].unsqueeze(1) for node in self.branches}
        if sampling_strategy == "distributed":
            return out, info
        chosen = []
        for image in range(len(xs)):
            node = self._root
            while sampling_strategy == "greedy" and node in self.branches:
                half = math.log(0.5) if self._log_probabilities else 0.5
                node = node.r if attr[node, "ps"][image].item() > half else node.l
            if sampling_strategy == "sample_max":
                node = max(self.leaves, key=lambda leaf: attr[leaf, "pa"][image].item())
            chosen.append(node)
        info["out_leaf_ix"] = [node.index for node in chosen]
        return torch.cat([attr[node, "ds"][:1] for node in chosen]), info

    def prune_left_below(self, node):
        """As the program cuts a branch off: its parent is replaced by the other side."""
        node.l = node.l.r


class NonNegLinear(nn.Module):
    def __init__(self, count, num_classes, bias=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, count))
        self.normalization_multiplier = nn.Parameter(torch.full((1,), 2.0))
        self.bias = nn.Parameter(torch.rand(num_classes)) if bias else None

    def forward(self, x):
        return F.linear(x, torch.relu(self.weight), self.bias)


class PIPNet(nn.Module):
    """PIP-Net: prototypes are channels, shared by a softmax at every cell."""

    def __init__(self, features, channels, num_classes, num_features=0, bias=False):
        super().__init__()
        self._num_features = num_features
        count = num_features or channels
        convolution = [nn.Conv2d(channels, num_features, 1)] if num_features else []
        self._net = features
        self._add_on = nn.Sequential(*convolution, nn.Softmax(dim=1))
        self._pool = nn.Sequential(nn.AdaptiveMaxPool2d((1, 1)), nn.Flatten())
        self._classification = NonNegLinear(count, num_classes, bias)
        self._multiplier = self._classification.normalization_multiplier

    def forward(self, x, inference=False):
        maps = self._add_on(self._net(x))
        pooled = self._pool(maps)
        if inference:
            pooled = torch.where(pooled < 0.1, 0.0, pooled)
        return maps, pooled, self._classification(pooled)


def settle(net: Any) -> Any:
    """Give batch norms statistics of their own and features some spread, and evaluate."""
    generator = torch.Generator().manual_seed(5)
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in norms:
        part.running_mean.normal_(0, 0.2, generator=generator)
        part.running_var.uniform_(0.5, 1.5, generator=generator)
        part.weight.data.uniform_(0.5, 1.5, generator=generator)
        part.bias.data.normal_(0, 0.2, generator=generator)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight, generator=generator)
    if type(net).__name__ in ("PIPNet", "OwnChannels") and not getattr(net, "_num_features", 0):
        norms[-1].weight.data *= 20  # so that a softmax over the backbone's own channels prefers some of them
    return net.eval()
