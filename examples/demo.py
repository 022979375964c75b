"""The numbers of a run on the synthetic birds, and one bird to explain: `python examples/demo.py RUN BIRD.png`.

`make demo` calls it after the training. Because the birds are painted, it is known which pixels are bird, and so
whether a prototype looks at the bird or at the background.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from protokern.cli.runs import open_data, open_run
from protokern.data.birds import SyntheticBirds
from protokern.train.evaluate import evaluate
from protokern.train.loaders import ordered_loader

CPU = torch.device("cpu")


@dataclass(frozen=True)
class DemoNumbers:
    """What a checkpoint of the run reaches.

    Attributes:
        checkpoint: its name.
        accuracy: on the test birds, in [0, 1].
        prototypes: how many it has.
        on_bird: share of the prototypes whose patch has its centre on the bird.
    """

    checkpoint: str
    accuracy: float
    prototypes: int
    on_bird: float


def read_numbers(checkpoint: Path) -> DemoNumbers:
    """Evaluate one checkpoint of a run on the synthetic birds."""
    opened = open_run(str(checkpoint), data=None, changes=(), device=CPU)
    splits = open_data(opened.config)
    assert isinstance(splits.push, SyntheticBirds)
    assert opened.push is not None
    result = evaluate(opened.model, ordered_loader(splits.test, opened.config.train.batch_size, 0), CPU)
    share = splits.push.bird_share(opened.push.image.tolist(), opened.push.patch.tolist(), opened.push.grid)
    return DemoNumbers(opened.checkpoint.name, result.accuracy, opened.model.num_prototypes, share)


def last_push(run: Path) -> Path:
    """The checkpoint of the run's last push."""
    return max((run / "checkpoints").glob("push-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))


def save_test_bird(run: Path, path: Path) -> None:
    """Write the first test bird of the run as a PNG."""
    splits = open_data(open_run(str(run), data=None, changes=(), device=CPU).config)
    assert isinstance(splits.test, SyntheticBirds)
    Image.fromarray(splits.test.display_image(0)).save(path)


def main(run: Path, bird: Path) -> None:
    for name, numbers in (("after the push", read_numbers(last_push(run))), ("at the end", read_numbers(run))):
        print(
            f"{name} ({numbers.checkpoint}): test accuracy {numbers.accuracy:.1%}, {numbers.prototypes} prototypes, "
            f"{numbers.on_bird:.1%} of their patch centres on the bird"
        )
    save_test_bird(run, bird)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
