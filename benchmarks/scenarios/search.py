"""The search over stored features: `python -m benchmarks search`.

push: at the size of CUB-200-2011, features in a memory-mapped file, sorted by class as an image folder gives them,
against the released program's loop over prototypes. prune: the six nearest images of the same prototypes, against its
loop over images and prototypes with heaps, on some of the images and scaled. stream: 10,000 prototypes over 50,000
feature maps read from a file that is larger than the memory allowed, in a separate process, against the op alone on
batches that are in memory already, a moment later.

Passes of the two kinds alternate. Before anything is timed the tests of the search run, and the answers of both kinds
are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.ops.machine import Machine, watch_others
from benchmarks.ops.memory import in_new_process, status_bytes
from benchmarks.pages.results import SEARCH, append_rows
from benchmarks.pages.scenario_rows import SearchRow
from benchmarks.pages.show import not_quiet
from benchmarks.pages.targets import search_verdict
from benchmarks.scenarios.scenario import begin, columns, flags, in_turns, seconds
from benchmarks.scenarios.search_formulas import nearest_images, push
from protokern import min_distance
from protokern.models import ProtoPNet
from protokern.push import push_prototypes
from protokern.search import find_nearest_patches

# Of the original's distances, whose expanded form loses digits.
TOLERANCE = 1e-4
# The op alone is timed on every so many batches of a stream.
EVERY = 8


@dataclass(frozen=True)
class SearchCase:
    """Sizes. `sample`: images that the baseline runs over."""

    name: str
    k: int
    images: int = 5994
    prototypes: int = 2000
    classes: int = 200
    depth: int = 128
    side: int = 7
    batch_size: int = 75
    sample: int = 5994

    @property
    def floats(self) -> int:
        """Of one image."""
        return self.depth * self.side**2


CASES = {
    case.name: case
    for case in (
        SearchCase("push", 1),
        SearchCase("prune", 6, sample=375),
        SearchCase("stream", 1, images=50_000, prototypes=10_000, classes=1000, batch_size=64),
    )
}


def tiny(case: SearchCase) -> SearchCase:
    """The same with sizes for a test."""
    return replace(case, images=20, prototypes=8, classes=4, depth=8, side=3, batch_size=6, sample=min(case.sample, 18))


@dataclass(frozen=True)
class Outcome:
    """Seconds of the search and of the baseline over all images, round by round, and the process's peak in bytes."""

    search: list[float]
    baseline: list[float]
    peak: int | None = None

    @property
    def ratio(self) -> float:
        """How many times as long as the search the baseline took."""
        return statistics.median(other / ours for ours, other in zip(self.search, self.baseline, strict=True))


def write_features(path: Path, case: SearchCase) -> None:
    """Features between 0 and 1 of every image, and out of the cache of the disk again."""
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, case.images, case.batch_size):
            count = min(case.batch_size, case.images - start)
            generator.random((count, case.floats), dtype=np.float32).tofile(file)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def labels_of(case: SearchCase) -> Tensor:
    """Sorted by class, all classes of about one size."""
    return torch.arange(case.images) * case.classes // case.images


def make_model(case: SearchCase) -> ProtoPNet:
    """A model whose features are its images, and prototypes drawn like them."""
    torch.manual_seed(0)
    per_class = case.prototypes // case.classes
    model = ProtoPNet(
        nn.Identity(),
        case.classes,
        prototypes_per_class=per_class,
        prototype_dim=case.depth,
        in_channels=case.depth,
        image_size=case.side,
    ).eval()
    model.add_on_layers = nn.Sequential()
    return model


def mapped_batches(path: Path, case: SearchCase, images: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a memory-mapped file, in order."""
    shape = (case.images, case.depth, case.side, case.side)
    features = torch.from_numpy(np.memmap(path, dtype=np.float32, mode="c", shape=shape))
    labels = labels_of(case)
    end = case.images if images is None else images
    for start in range(0, end, case.batch_size):
        some = slice(start, min(start + case.batch_size, end))
        yield features[some], labels[some]


def read_batches(path: Path, case: SearchCase) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches read from the file one after the other."""
    labels = labels_of(case)
    with path.open("rb") as file:
        for some in labels.split(case.batch_size):
            features = np.fromfile(file, dtype=np.float32, count=len(some) * case.floats)
            yield torch.from_numpy(features).view(len(some), case.depth, case.side, case.side), some


def time_push(path: Path, case: SearchCase, rounds: int) -> Outcome:
    start = make_model(case)
    kernels = start.prototype_layer.prototypes.detach().clone()[:, :, None, None]
    class_of = start.class_identity.argmax(dim=1).tolist()

    def ours() -> Tensor:
        return push_prototypes(make_model(case), mapped_batches(path, case)).distance

    def original() -> Tensor:
        return torch.from_numpy(push(mapped_batches(path, case), kernels, class_of).distance)

    return take_turns(ours, original, ours, rounds, 1.0)


def time_prune(path: Path, case: SearchCase, rounds: int) -> Outcome:
    model = make_model(case)
    kernels = model.prototype_layer.prototypes.detach().clone()[:, :, None, None]

    def ours(images: int | None = None) -> Tensor:
        return find_nearest_patches(model, mapped_batches(path, case, images), case.k).distance

    def original() -> Tensor:
        return torch.from_numpy(nearest_images(mapped_batches(path, case, case.sample), kernels, case.k))

    return take_turns(ours, original, lambda: ours(case.sample), rounds, case.images / case.sample)


def take_turns(
    ours: Callable[[], Tensor], original: Callable[[], Tensor], same: Callable[[], Tensor], rounds: int, scale: float
) -> Outcome:
    """Compare the distances of `original` with those that `same` finds in the same images; then time.

    Raises:
        RuntimeError: they differ by more than the original's rounding.
    """
    torch.testing.assert_close(same().double(), original().double(), rtol=TOLERANCE, atol=TOLERANCE)
    taken = in_turns({"baseline": original, "search": ours}, rounds)
    return Outcome(taken["search"], [one * scale for one in taken["baseline"]])


def stream_here(path: Path, case: SearchCase) -> Outcome:
    """One stream in this process, which must be fresh, with the op alone in between on the batches just searched."""
    model = make_model(case)
    prototypes = model.prototype_layer.prototypes.detach()
    alone, images_alone = 0.0, 0

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal alone, images_alone
        for index, (features, labels) in enumerate(read_batches(path, case)):
            yield features, labels
            if index % EVERY == 0:
                alone += seconds(lambda: min_distance(features, prototypes, precision="fp32"))  # noqa: B023
                images_alone += len(features)

    took = seconds(lambda: find_nearest_patches(model, batches(), case.k)) - alone
    return Outcome([took], [alone * case.images / images_alone], status_bytes("VmHWM"))


def stream_apart(path: Path, case: SearchCase, threads: int) -> Outcome:
    """The same in a new process."""
    sizes = json.dumps(asdict(case))
    found = in_new_process("search", "--child", str(path), "--threads", str(threads), "--sizes", sizes)
    return Outcome(**found)


def run_case(machine: Machine, case: SearchCase, rounds: int, folder: Path | None) -> SearchRow:
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(dir=folder) as scratch, watch_others() as others:
        path = Path(scratch) / "features.f32"
        write_features(path, case)
        if case.name == "stream":
            outcome = stream_apart(path, case, threads)
        else:
            outcome = (time_push if case.name == "push" else time_prune)(path, case, rounds)
    sizes = {name: value for name, value in asdict(case).items() if name not in ("name", "sample")}
    return SearchRow(
        **columns(machine, others),
        **sizes,
        case=case.name,
        baseline="op" if case.name == "stream" else "original",
        rounds=len(outcome.search),
        search_s=round(statistics.median(outcome.search), 4),
        baseline_images=case.images // EVERY if case.name == "stream" else case.sample,
        baseline_s=round(statistics.median(outcome.baseline), 4),
        ratio=round(outcome.ratio, 3),
        peak_mb=None if outcome.peak is None else round(outcome.peak / 1e6, 1),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("search", __doc__, SEARCH)
    parser.add_argument("--cases", default=",".join(CASES), help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each kind; the stream is one")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, help="where the features are written, up to 1.3 GB; default: TMPDIR")
    parser.add_argument("--tiny", action="store_true", help="does it run at all? A few images")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.child is not None:
        print(json.dumps(asdict(stream_here(arguments.child, SearchCase(**arguments.sizes)))))
        return 0
    cases = [CASES[name] for name in arguments.cases.split(",")]
    machine = begin(arguments, "search")
    for case in cases:
        row = run_case(machine, tiny(case) if arguments.tiny else case, arguments.rounds, arguments.folder)
        print(f"{row.case}: search {row.search_s:.3f} s, {row.baseline} {row.baseline_s:.3f} s{not_quiet(row)}")
        for line in search_verdict(row):
            print(f"  {line}")
        append_rows(arguments.out, [row])
    return 0
