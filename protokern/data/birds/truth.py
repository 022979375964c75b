"""What the painter knows of synthetic birds, in the form in which a folder's annotations come."""

from __future__ import annotations

from protokern.data.birds.dataset import SyntheticBirds
from protokern.data.regions import BoxRegion, MaskRegion, PartPoint, Region


class BirdTruth:
    """Mask, box and visible parts of every painted bird; see `FolderAnnotations`."""

    def __init__(self, birds: SyntheticBirds) -> None:
        self._birds = birds

    def regions(self, index: int) -> dict[str, Region]:
        """Where the bird is: "mask" and "box bird"."""
        truth = self._birds.annotations(index)
        y0, x0, y1, x1 = truth.box
        return {
            "mask": MaskRegion(truth.masks["bird"]),
            "box bird": BoxRegion(self._birds.image_size, ((y0, x0, y1, x1),)),
        }

    def parts(self, index: int) -> tuple[PartPoint, ...]:
        """Centres of the parts that nothing hides."""
        rows, columns = self._birds.image_size
        points = self._birds.annotations(index).keypoints.items()
        return tuple(PartPoint(name, y / rows, x / columns) for name, (y, x, is_visible) in points if is_visible)
