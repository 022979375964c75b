"""The nearest training patches are those of a plain search, for any net that gives maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import protokern
from protokern.nets import NearestExamples, Net
from tests.cli.pushed_run import make_run
from tests.explain.small_models import small_model
from tests.explain.test_shown import Frames
from tests.report.test_page import read_page

BACKBONE = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.ReLU(), nn.Conv2d(6, 5, 2, stride=2)).eval()


class Labelled:
    def __init__(self, count: int = 40) -> None:
        self.images = torch.rand(count, 3, 32, 24, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], index % 3


def by_hand(query: Tensor, maps: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Images (k,) and patches (k,) of maps (B, D, H, W) that are nearest to a vector (D,)."""
    rows = maps.flatten(2).transpose(1, 2).double()  # (B, N, D)
    if metric == "cosine":
        distance = 1 - F.cosine_similarity(rows, query.double(), dim=2)
    else:
        distance = (rows - query.double()).square().sum(dim=2)
    best, patch = distance.min(dim=1)
    image = best.argsort()[:k]
    return image, patch[image]


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_they_are_those_of_a_search_by_hand(metric: str) -> None:
    data, image = Labelled(), torch.rand(3, 32, 24, generator=torch.Generator().manual_seed(2))
    found = protokern.nearest_examples(BACKBONE, data, image, k=3, metric=metric)
    with torch.no_grad():
        maps, query = BACKBONE(data.images), BACKBONE(image[None])[0]
    assert found.grid == (4, 3)
    assert found.patches == tuple((row, column) for row in range(4) for column in range(3))
    for q, (row, column) in enumerate(found.patches):
        images, patches = by_hand(query[:, row, column], maps, 3, metric)
        assert torch.equal(found.image[q], images)
        assert torch.equal(found.patch[q], patches)
        assert torch.equal(found.label[q], images % 3)


def test_an_image_of_the_data_finds_itself_at_distance_zero() -> None:
    data = Labelled(5)
    found = protokern.nearest_examples(BACKBONE, data, data.images[3], k=1, patches=[(1, 2)], metric="sqeuclidean")
    (row,) = found.to_dict()
    assert row.pop("distance") == pytest.approx(0, abs=1e-10)  # a convolution rounds by the size of its batch
    assert row == {"patch": (1, 2), "image": 3, "name": "image 3", "label": 0, "image_patch": (1, 2)}


def test_fewer_images_than_asked_for_are_told() -> None:
    found = protokern.nearest_examples(BACKBONE, Labelled(2), torch.rand(3, 32, 24), k=4, patches=[(0, 0)])
    assert found.image[0].tolist()[2:] == [-1, -1]
    assert found.label[0].tolist()[2:] == [-1, -1]
    assert len(found.to_dict()) == 2


def page_of(found: NearestExamples) -> dict:
    (frame,) = Frames(found._repr_html_()).found
    return read_page(str(frame["srcdoc"]))


def test_files_are_read_and_named_and_the_page_shows_them(tmp_path: Path) -> None:
    paths = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (30, 30, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    found = protokern.nearest_examples(BACKBONE, paths, paths[2], image_size=(32, 24), k=2)
    assert repr(found) == "NearestExamples: 2 training patches for each of 12 patches of an image"
    assert {row["name"] for row in found.to_dict()} <= {path.name for path in paths}
    rows = page_of(found)["item"]["first"]["reasons"]
    assert len(rows) == 8
    assert all(row["caption"] == "2.png" for row in rows)
    found.save(tmp_path / "page.html")
    assert read_page((tmp_path / "page.html").read_text(encoding="utf-8"))["item"]


def test_a_model_is_searched_by_its_features_and_a_net_knows_its_size(tmp_path: Path) -> None:
    model, image = small_model(), torch.rand(3, 32, 24)
    found = protokern.nearest_examples(model, Labelled(6), image, k=1, patches=[(0, 0)])
    with torch.no_grad():
        images, _ = by_hand(model.features(image[None])[0, :, 0, 0], model.features(Labelled(6).images), 1, "cosine")
    assert found.image[0].tolist() == images.tolist()
    run = make_run(tmp_path)
    net: Net = protokern.load(run.folder)
    photos = sorted((run.data / "train").rglob("*.png"))
    assert protokern.nearest_examples(net, photos, photos[0], k=1).distance.max() < 1e-6


def test_what_cannot_be_searched_is_refused() -> None:
    data, image = Labelled(3), torch.rand(3, 32, 24)
    with pytest.raises(ValueError, match="metric: must be cosine or sqeuclidean; got 'dot'"):
        protokern.nearest_examples(BACKBONE, data, image, metric="dot")
    with pytest.raises(ValueError, match=r"net: must give maps \(B, D, H, W\); got \(1, 2304\)"):
        protokern.nearest_examples(nn.Flatten(), data, image)
    with pytest.raises(ValueError, match=r"patches: must be \(row, column\) in a grid of 4 x 3; got \(4, 0\)"):
        protokern.nearest_examples(BACKBONE, data, image, patches=[(4, 0)])
    with pytest.raises(ValueError, match="image_size: must be given for images that are no tensors"):
        protokern.nearest_examples(BACKBONE, ["a.png"], "a.png")
    with pytest.raises(ValueError, match="k: must be at least 1; got 0"):
        protokern.nearest_examples(BACKBONE, data, image, k=0)
