"""Consistency and stability: by hand, against slow programs, and where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from protokern.data import SyntheticBirds
from protokern.data.birds.dataset import BirdTruth
from protokern.data.regions import PartPoint
from protokern.metrics import Context, best_part, measure, parts_around, parts_around_peak
from protokern.metrics.noise import noise_for
from protokern.models import ProtoPNet
from tests.explain.small_models import small_model, small_pool
from tests.metrics import plain
from tests.metrics.marked import random_images, random_parts
from tests.metrics.placed import PlacedNet, batches


def test_boxes_by_hand() -> None:
    """A box of a half around (0.5, 0.5) holds its border, and nothing beyond it."""
    parts = [PartPoint("in", 0.25, 0.75), PartPoint("above", 0.24, 0.5), PartPoint("right", 0.5, 0.76)]
    assert parts_around(parts, (0.5, 0.5), 0.25) == {"in"}


def test_boxes_of_the_papers_count_whole_pixels() -> None:
    """Of 224 pixels 36 on each side: a part at 100.9 is at pixel 100, which is 36 from 136."""
    at = PartPoint("beak", 100.9 / 224, 0.5)
    assert parts_around_peak([at], (136, 112), (224, 224), 36 / 224) == {"beak"}
    assert parts_around_peak([at], (137, 112), (224, 224), 36 / 224) == set()
    assert parts_around_peak([at], (136, 56), (224, 112), 36 / 224) == {"beak"}  # 18 pixels of 112
    assert parts_around_peak([at], (136, 75), (224, 112), 36 / 224) == set()


def test_the_best_part_by_hand() -> None:
    visible = {"beak": 4, "eye": 2, "wing": 10}
    assert best_part({"beak": 3, "eye": 1, "wing": 5}, visible) == ("beak", 0.75)
    assert best_part({"beak": 2, "eye": 1, "wing": 5}, visible) == ("wing", 0.5)  # the most hits
    assert best_part({"eye": 1, "tail": 1}, {"eye": 1, "tail": 1}) == ("eye", 1.0)  # the first by name
    name, share = best_part({}, {})
    assert name == ""
    assert math.isnan(share)


def found_parts(model: ProtoPNet, image: torch.Tensor, parts, own, protocol: str, area: float | None):
    """For each prototype the parts around its match, from all distances at all patches."""
    layer = model.prototype_layer
    with torch.no_grad():
        features = model.features(image[None])[0].double()  # (5, 8, 8)
    half = 36 / 224 if area is None else math.sqrt(area) / 2
    found = []
    for prototype in own:
        vector = layer.prototypes.detach()[prototype].double()
        distance = ((features - vector[:, None, None]) ** 2).sum(dim=0)
        if protocol == "paper":
            row, column = plain.peak(((distance + 1) / (distance + layer.epsilon)).log().tolist(), (32, 32))
            reach = round(half * 32)
            found.append(
                {p.name for p in parts if abs(int(p.y * 32) - row) <= reach and abs(int(p.x * 32) - column) <= reach}
            )
        else:
            row, column = divmod(int(distance.argmin()), 8)
            found.append(plain.parts_in_box(parts, (row + 0.5) / 8, (column + 0.5) / 8, half))
    return found


@pytest.mark.parametrize("protocol", ["default", "paper"])
@pytest.mark.parametrize("area", [None, 0.3], ids=str)
def test_consistency_against_a_slow_program(protocol: str, area: float | None) -> None:
    model, number = small_model(), 13
    images, labels = random_images(number)
    parts = random_parts(number)
    context = Context(parts=parts.__getitem__, protocol=protocol, part_area=area)
    loader = [(images[:5], labels[:5]), (images[5:], labels[5:])]
    (result,) = measure(model, loader, number, only=["consistency"], context=context)
    found: dict[int, list[set[str]]] = {}
    shown: dict[int, list[set[str]]] = {}
    for image, label, some in zip(images, labels.tolist(), parts, strict=True):
        own = range(3 * label, 3 * label + 3)
        for j, names in zip(own, found_parts(model, image, some, own, protocol, area), strict=True):
            if some:
                found.setdefault(j, []).append(names)
                shown.setdefault(j, []).append({part.name for part in some})
    wanted = [plain.consistent(found[j], shown[j]) for j in range(12)]
    assert result.estimates["consistent prototypes"].value == pytest.approx(np.mean([one for one, _ in wanted]))
    assert result.prototypes["share with the best part"] == pytest.approx([share for _, share in wanted])
    assert result.estimates["consistent prototypes"].prototypes == 12
    assert (result.settings["images"], result.skipped["images without part centres"]) == (12, 1)


@pytest.mark.parametrize("protocol", ["default", "paper"])
def test_stability_against_a_slow_program(protocol: str) -> None:
    model, number = small_model(), 9
    images, labels = random_images(number)
    parts = random_parts(number)
    context = Context(parts=parts.__getitem__, subset=6, seed=3, protocol=protocol)
    loader = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    (result,) = measure(model, loader, number, only=["stability"], context=context)
    drawn = range(number) if protocol == "paper" else np.random.default_rng(3).permutation(number)[:6].tolist()
    same_parts: dict[int, list[bool]] = {}
    same_patch = []
    for index in sorted(drawn):
        state = np.random.SeedSequence([3, index]).generate_state(1, np.uint64)[0]
        noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(int(state) // 2))
        noisy = images[index] + 0.225 * (0.2 * noise).clamp(-0.25, 0.25)
        own = range(3 * int(labels[index]), 3 * int(labels[index]) + 3)
        with torch.no_grad():
            patches = [model(one[None]).patches[0, list(own)].tolist() for one in (images[index], noisy)]
        same_patch.append(np.mean([one == other for one, other in zip(*patches, strict=True)]))
        before, after = (found_parts(model, one, parts[index], own, protocol, None) for one in (images[index], noisy))
        if parts[index]:
            for j, one, other in zip(own, before, after, strict=True):
                same_parts.setdefault(j, []).append(one == other)
    assert result.estimates["same patch"].value == pytest.approx(np.mean(same_patch))
    assert 0 < result.estimates["same patch"].value < 1
    assert result.estimates["same parts"].value == pytest.approx(np.mean([np.mean(v) for v in same_parts.values()]))
    assert result.passes == len(list(drawn))


def test_prototypes_on_the_beak_are_consistent_and_random_places_are_not() -> None:
    birds = SyntheticBirds("test", num_classes=3, images_per_class=8, image_size=64)
    truth = BirdTruth(birds)
    beaks = [next((part for part in truth.parts(i) if part.name == "beak"), None) for i in range(24)]
    places = [(0, 0) if beak is None else (int(beak.y * 16), int(beak.x * 16)) for beak in beaks]
    rng = np.random.default_rng(0)
    shares = []
    for where in (places, rng.integers(16, size=(24, 2)).tolist()):
        model = PlacedNet(where, (16, 16), 3)
        (result,) = measure(model, batches(birds.labels), 24, only=["consistency"], context=Context(parts=truth.parts))
        shares.append(result.estimates["consistent prototypes"].value)
    assert shares[0] == 1
    assert shares[1] < 0.5


def test_a_net_that_ignores_its_image_is_stable_and_one_that_sees_noise_alone_is_not() -> None:
    class _Fixed(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.linspace(0.1, 0.9, 64).reshape(1, 1, 8, 8).expand(len(images), 5, 8, 8)

    class _Noise(torch.nn.Module):
        """The images are constant, so what is left of their mean is noise."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (images - images.mean(dim=(2, 3), keepdim=True))[:, :1, ::4, ::4].abs().expand(-1, 5, -1, -1)

    images, labels = torch.full((8, 3, 32, 32), 0.5), torch.arange(8) % 4
    for net, low, high in ((_Fixed(), 1, 1), (_Noise(), 0, 0.2)):
        model = small_model()
        model.backbone, model.add_on_layers = net, torch.nn.Sequential()
        (result,) = measure(model, [(images, labels)], 8, only=["stability"])
        assert low <= result.estimates["same patch"].value <= high
        assert result.settings["parts"] == "no annotations were given"


def test_what_is_missing_is_said() -> None:
    images, labels = random_images(4)
    loader = [(images, labels)]
    (none,) = measure(small_model(), loader, 4, only=["consistency"])
    assert none.left_out == "no annotations were given"
    (empty,) = measure(small_model(), loader, 4, only=["consistency"], context=Context(parts=lambda _: ()))
    assert empty.left_out == "no image of this data set has part centres"
    (stable,) = measure(small_model(), loader, 4, only=["stability"], context=Context(parts=lambda _: ()))
    assert list(stable.estimates) == ["same patch"]
    assert stable.settings["parts"] == "no image of this data set has part centres"


def test_a_shared_prototype_counts_in_all_its_classes_and_an_unused_one_nowhere() -> None:
    images, labels = random_images(9)
    context = Context(parts=random_parts(9).__getitem__)
    (result,) = measure(small_pool(), [(images, labels)], 9, only=["consistency"], context=context)
    assert math.isnan(result.prototypes["consistent"][6])
    assert result.estimates["consistent prototypes"].prototypes == 6


def test_noise_has_its_spread_and_its_bound_and_is_drawn_by_seed_and_image() -> None:
    image = torch.zeros(3, 64, 64)
    noise = noise_for(image, 5, std=0.2, seed=1)
    assert float(noise.std()) == pytest.approx(0.2 * 0.225, rel=0.05)
    assert torch.equal(noise, noise_for(image, 5, std=0.2, seed=1))
    assert not torch.equal(noise, noise_for(image, 6, std=0.2, seed=1))
    assert not torch.equal(noise, noise_for(image, 5, std=0.2, seed=2))
    bounded = noise_for(image, 5, std=0.2, most=0.25, seed=1)
    assert float(bounded.abs().max()) == pytest.approx(0.25 * 0.225)
