import torch

from protokern.backbones import build_backbone
from protokern.models import ProtoPNet
from protokern.push import push_prototypes

model = ProtoPNet(build_backbone("tiny", weights="none"), num_classes=2, prototypes_per_class=3).eval()
loader = [(torch.rand(16, 3, 64, 64), torch.arange(16) % 2)]  # any loader of images and labels, in order
source = push_prototypes(model, loader)  # every prototype becomes the nearest patch of its own class
output = model(loader[0][0])  # .logits (16, 2), .min_distances, .activations and .patches (16, 6)
for p, (image, patch) in enumerate(zip(source.image, source.patch, strict=True)):
    print(f"prototype {p} is patch {patch} of image {image}: distance {output.min_distances[image, p]:g}")
