"""The last layer after a push, solved and learnt in small steps: `python -m benchmarks last-layer`.

Without runs: 5,994 images of 200 classes and ten prototypes each, with made-up distances, at the paper's strength of
L1; the small steps are the released program's, 20 epochs of Adam.

With runs (`RUN... --data DIR`): the stage as `protokern train` does it, on the activations of the run's last push and
the photographs it was trained on; the strength of L1 is chosen on the validation split, and small steps are those of
the run's own settings. Test images are only counted.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ops.machine import watch_others
from benchmarks.pages.results import LAST_LAYER, append_rows
from benchmarks.pages.scenario_rows import LastLayerRow
from benchmarks.pages.targets import MADE_UP, last_layer_verdict
from benchmarks.scenarios.scenario import begin, columns, flags
from protokern.backbones import build_backbone
from protokern.config.train import TrainConfig
from protokern.losses import last_layer_l1
from protokern.models import ProtoPNet
from protokern.models.base import PrototypeModel
from protokern.runs.data import open_data
from protokern.runs.open import open_run
from protokern.solvers.last_layer import LastLayerInputs, collect_inputs, solve_last_layer, train_last_layer
from protokern.train.optimizers import make_optimizer

CUB = (5_994, 200, 10)  # images, classes, prototypes of each
UNBOUNDED = 1e9  # a last_layer_bound that is never met


@dataclass(frozen=True)
class Problem:
    """A last layer to learn, and what on.

    Attributes:
        settings: of the small steps; the solver takes their coefficients.
        path: strengths of L1 that the solver tries.
    """

    name: str
    model: PrototypeModel
    train: LastLayerInputs
    val: LastLayerInputs
    test: LastLayerInputs | None
    settings: TrainConfig
    path: int


def made_up(num_images: int, num_classes: int, per_class: int) -> Problem:
    """Log similarities of images and prototypes that scatter around the points of their classes."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    labels = torch.arange(num_images) % num_classes
    prototypes = 0.6 * normal(num_classes * per_class, 32) + normal(num_classes, 32).repeat_interleave(per_class, 0)
    images = prototypes.view(num_classes, per_class, 32).mean(dim=1)[labels] + normal(num_images, 32)
    distance = torch.cdist(images, prototypes).square() / 16 * (0.4 * normal(num_images, len(prototypes))).exp()
    inputs = LastLayerInputs(((distance + 1) / (distance + 1e-4)).log().float(), labels)
    model = ProtoPNet(
        build_backbone("tiny"), num_classes, prototypes_per_class=per_class, prototype_dim=4, image_size=32
    )
    return Problem(MADE_UP, model, inputs, inputs, None, TrainConfig(l1=1e-4, last_layer_path=1), path=1)


@torch.no_grad()
def from_run(folder: Path, data: str | None) -> Problem:
    """The activations after the run's last push."""
    pushes = sorted((folder / "checkpoints").glob("push-*"), key=lambda path: int(path.name.split("-")[1]))
    opened = open_run(str(pushes[-1]), data=data, changes=[], device=torch.device("cpu"))
    splits = open_data(opened.config, run=opened.folder)

    def inputs(split: Any) -> LastLayerInputs:
        loader = torch.utils.data.DataLoader(split, batch_size=64)
        return collect_inputs(opened.model, ((opened.model.features(images), labels) for images, labels in loader))

    settings = replace(opened.config.train, last_layer_solver="compat")
    train, val, test = (inputs(split) for split in (splits.push, splits.val, splits.test))
    return Problem(folder.name, opened.model, train, val, test, settings, TrainConfig().last_layer_path)


def weight_of(model: PrototypeModel) -> Tensor:
    """Of the last layer, (K, E)."""
    weight = model.last_layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def objective(problem: Problem) -> float:
    """Cross entropy and L1, as the paper has them, of the layer as it is."""
    settings = problem.settings
    weight = weight_of(problem.model)
    with torch.no_grad():
        logits = problem.train.values.double() @ weight.double().T
        loss = F.cross_entropy(logits, problem.train.labels, label_smoothing=settings.label_smoothing)
        l1 = last_layer_l1(weight.double(), problem.model.last_layer_identity)
    return float(settings.cross_entropy * loss + settings.l1 * l1)


def measure(problem: Problem, rounds: int) -> dict[str, dict[str, Any]]:
    """Both ways in turns, each from the same weights: median seconds, and what the last round ended with."""
    model, settings = problem.model, problem.settings
    start = copy.deepcopy(model.last_layer.state_dict())
    # Without the bound, which the small steps do not have either: both minimise the paper's objective.
    solver = replace(settings, last_layer_solver="convex", last_layer_path=problem.path, last_layer_bound=UNBOUNDED)

    def solved() -> dict[str, Any]:
        result = solve_last_layer(model, problem.train, problem.val, solver)
        return {"gap": result.gap, "l1": result.l1, "evaluations": result.evaluations}

    def stepped() -> dict[str, Any]:
        optimizer = make_optimizer(model, "last_layer", settings)
        train_last_layer(model, problem.train, problem.val, settings, optimizer)
        return {"gap": None, "l1": settings.l1, "evaluations": None}

    ways: dict[str, Callable[[], dict[str, Any]]] = {"convex": solved, "compat": stepped}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    ends: dict[str, dict[str, Any]] = {}
    is_other = model.last_layer_identity.T == 0
    for index in range(rounds):
        for name in ways if index % 2 == 0 else reversed(ways):
            model.last_layer.load_state_dict(start)
            started = time.perf_counter()
            end = ways[name]()
            taken[name].append(time.perf_counter() - started)
            ends[name] = {
                **end,
                "objective": objective(problem),
                "nonzero": int(weight_of(model)[is_other].count_nonzero()),
                "test_accuracy": None if problem.test is None else problem.test.evaluate(model.last_layer).accuracy,
            }
    return {name: {**ends[name], "seconds": statistics.median(taken[name])} for name in ways}


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("last-layer", __doc__, LAST_LAYER)
    parser.add_argument("runs", nargs="*", type=Path, help="finished runs; default: the made-up problem")
    parser.add_argument("--data", help="the photographs of the runs")
    parser.add_argument("--rounds", type=int, default=3, help="of each of the two ways")
    parser.add_argument("--tiny", action="store_true", help="a small made-up problem, to see that it works")
    arguments = parser.parse_args(argv)
    machine = begin(arguments, "solvers/test_convex.py", "solvers/test_last_layer.py")
    problems = [from_run(run, arguments.data) for run in arguments.runs]
    if not problems:
        problems = [made_up(*((300, 10, 3) if arguments.tiny else CUB))]
    for problem in problems:
        with watch_others() as others:
            results = measure(problem, arguments.rounds)
        rows = [
            LastLayerRow(
                **columns(machine, others),
                problem=problem.name,
                solver=name,
                images=len(problem.train.labels),
                inputs=problem.train.values.shape[1],
                classes=problem.model.num_classes,
                path=problem.path if name == "convex" else 1,
                rounds=arguments.rounds,
                **result,
            )
            for name, result in results.items()
        ]
        for row in rows:
            numbers = f"{row.seconds:.2f} s, objective {row.objective:.5f}, {row.nonzero} weights to other classes"
            print(f"{row.problem}, {row.solver}: {numbers}, test accuracy {row.test_accuracy}")
        print(last_layer_verdict(*rows))
        append_rows(arguments.out, rows)
    return 0
