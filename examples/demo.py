"""The numbers of a run on the synthetic birds, and one bird to explain: `python examples/demo.py RUN BIRD.png`.

`make demo` calls it after the training. Because the birds are painted, it is known which pixels are bird, and so
whether a prototype looks at the bird or at the background.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from PIL import Image

from protokern.data.birds import SyntheticBirds
from protokern.runs.data import open_data
from protokern.runs.open import OpenRun, open_run


def open_checkpoint(path: Path) -> OpenRun:
    return open_run(str(path), data=None, changes=(), device=torch.device("cpu"))


def share_on_bird(opened: OpenRun, birds: SyntheticBirds) -> float:
    """Share of the prototypes whose patch has its centre on the bird, in [0, 1]."""
    assert opened.push is not None
    return birds.bird_share(opened.push.image.tolist(), opened.push.patch.tolist(), opened.push.grid)


def last_push(run: Path) -> Path:
    """The checkpoint of the run's last push."""
    return max((run / "checkpoints").glob("push-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))


def main(run: Path, bird: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    pushed, final = open_checkpoint(last_push(run)), open_checkpoint(run)
    splits = open_data(final.config)
    assert isinstance(splits.push, SyntheticBirds)
    for name, opened, accuracy in (
        ("after the push", pushed, metrics["stages"]["after_push"]["test"]),
        ("at the end", final, metrics["accuracy"]),
    ):
        print(
            f"{name}: test accuracy {accuracy:.1%}, {opened.model.num_prototypes} prototypes, "
            f"{share_on_bird(opened, splits.push):.1%} of their patch centres on the bird"
        )
    Image.fromarray(splits.test.display_image(0)).save(bird)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
