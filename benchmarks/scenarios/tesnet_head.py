"""Forward and backward of TesNet's head, with and without its loss: `python -m benchmarks tesnet-head`.

The size is that of the release on CUB-200-2011: 80 images of 64 channels on a grid of 7 x 7, 200 classes with 10
prototypes each. Ours and the released formula take turns. Before that, values and gradients of both are compared with
the released formula in float64 on fewer images and classes, where no two patches are as near as rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.ops.machine import Machine, watch_others
from benchmarks.ops.timing import Timed, measure
from benchmarks.pages.results import TESNET, append_rows
from benchmarks.pages.scenario_rows import TesNetRow
from benchmarks.pages.show import not_quiet
from benchmarks.pages.targets import TESNET_RATIO, judged
from benchmarks.scenarios.scenario import begin, columns, flags, time_columns
from protokern.losses import Labels, LossCoefficients
from protokern.models import TesNet

OURS = "protokern"
PROVIDERS = (OURS, "original")
TOLERANCE = 3e-5  # of the largest entry of a tensor


@dataclass(frozen=True)
class TesNetCase:
    """Sizes; `with_loss` adds the whole loss to the two readings of the features."""

    name: str
    with_loss: bool
    images: int = 80
    depth: int = 64
    side: int = 7
    classes: int = 200
    per_class: int = 10


CASES = {case.name: case for case in (TesNetCase("head", False), TesNetCase("loss", True))}
TINY = TesNetCase("tiny", True, images=3, depth=6, side=3, classes=4, per_class=2)


@dataclass(frozen=True)
class Head:
    """What both compute from: features (B, D, H, W), prototypes (P, D), weights (K, P), labels (B,)."""

    features: Tensor
    prototypes: Tensor
    weight: Tensor
    labels: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.features, self.prototypes, self.weight

    def to(self, dtype: torch.dtype) -> Head:
        """Copies of another type that are leaves too."""
        features, prototypes, weight = (one.detach().to(dtype).requires_grad_() for one in self.leaves)
        return Head(features, prototypes, weight, self.labels)


def make_model(case: TesNetCase) -> TesNet:
    torch.manual_seed(0)
    model = TesNet(
        nn.Identity(),
        case.classes,
        prototypes_per_class=case.per_class,
        prototype_dim=case.depth,
        in_channels=case.depth,
        image_size=case.side,
    )
    with torch.no_grad():  # lengths other than 1, at which the orthonormality has a kink
        model.prototype_layer.prototypes.mul_(torch.rand(model.num_prototypes, 1) + 0.5)
    return model


def make_head(case: TesNetCase, model: TesNet) -> Head:
    """The model's own tensors, and features as after a sigmoid."""
    features = torch.rand(case.images, case.depth, case.side, case.side).requires_grad_()
    labels = torch.arange(case.images) % case.classes
    return Head(features, model.prototype_layer.prototypes, model.last_layer.weight, labels)


def ours(case: TesNetCase, model: TesNet, head: Head) -> list[Tensor]:
    """Logits and negative cosines; or the loss."""
    output = model.head(head.features)
    if case.with_loss:
        return [model.loss(output, Labels(head.labels), LossCoefficients()).total]
    return [output.logits, output.cosine_distances - 1]


def original(case: TesNetCase, model: TesNet, head: Head) -> list[Tensor]:
    """The same by the formulas of the released program."""
    x, p, weight = head.leaves
    unit = F.normalize(p, dim=1)[:, :, None, None]
    cosines = -F.conv2d(F.normalize(x, dim=1), unit)
    projections = F.conv2d(x, unit)
    nearest = -F.max_pool2d(-cosines, cosines.shape[2:]).flatten(1)
    logits = F.linear(F.max_pool2d(projections, projections.shape[2:]).flatten(1), weight)
    return [_original_loss(case, model, head, logits, nearest)] if case.with_loss else [logits, nearest]


def _original_loss(case: TesNetCase, model: TesNet, head: Head, logits: Tensor, cosines: Tensor) -> Tensor:
    own = model.class_identity.to(logits.dtype).T[head.labels]  # (B, P)
    largest = float(case.depth)
    cluster = (largest - ((largest - cosines) * own).amax(dim=1)).mean()
    separation = (largest - ((largest - cosines) * (1 - own)).amax(dim=1)).mean()
    l1 = (head.weight * (1 - model.class_identity.to(logits.dtype).T)).abs().sum()
    bases = head.prototypes.reshape(case.classes, case.per_class, case.depth)
    gram = bases @ bases.transpose(1, 2)
    orthonormality = torch.norm(gram - torch.eye(case.per_class).to(gram), p=1, dim=[1, 2]).sum()
    operators = bases.transpose(1, 2) @ bases
    pairs = operators[:, None] - operators[None] + 1e-10  # (K, K, D, D)
    apart = 0.5 * torch.norm(pairs, p="fro", dim=[2, 3]).sum() / math.sqrt(2)
    total = F.cross_entropy(logits, head.labels) + 0.8 * cluster - 0.08 * separation + 1e-4 * l1
    return total + 1e-4 * orthonormality - 1e-7 * apart


FORMULAS: dict[str, Callable[[TesNetCase, TesNet, Head], list[Tensor]]] = {OURS: ours, "original": original}


def make_step(name: str, case: TesNetCase, model: TesNet, head: Head) -> Callable[[], list[Tensor]]:
    """Results and the gradients of all leaves, for one fixed gradient of the results."""
    generator = torch.Generator().manual_seed(1)
    shapes = [()] if case.with_loss else [(case.images, case.classes), (case.images, model.num_prototypes)]
    grads = [torch.randn(shape, generator=generator).to(head.features) for shape in shapes]

    def step() -> list[Tensor]:
        results = FORMULAS[name](case, model, head)
        return [*(one.detach() for one in results), *torch.autograd.grad(results, head.leaves, grads)]

    return step


def errors(case: TesNetCase) -> dict[str, float]:
    """How far results and gradients of each provider are from the released formula in float64.

    Relative to the largest entry of the tensor; the largest over the tensors.
    """
    small = replace(case, images=min(case.images, 8), classes=min(case.classes, 20))
    model = make_model(small)
    head = make_head(small, model)
    exact = make_step("original", small, model, head.to(torch.float64))()
    return {
        name: max(
            float((a - b).abs().max() / b.abs().max())
            for a, b in zip(make_step(name, small, model, head)(), exact, strict=True)
        )
        for name in PROVIDERS
    }


def run_case(machine: Machine, case: TesNetCase, seconds: float) -> list[TesNetRow]:
    """Check and time both."""
    found = errors(case)[OURS]
    if not found <= TOLERANCE:
        raise RuntimeError(f"{case.name}: must be within {TOLERANCE:g} of the released formula; got {found:.2g}.")
    model = make_model(case)
    head = make_head(case, model)
    calls = {name: Timed(call=make_step(name, case, model, head)) for name in PROVIDERS}
    with watch_others() as others:
        timings = measure(calls, seconds=seconds)
    return [
        TesNetRow(
            **columns(machine, others),
            **time_columns(timing),
            provider=name,
            case=case.name,
            **{key: value for key, value in asdict(case).items() if key not in ("name", "with_loss")},
            faster_than_original=round(timings["original"].p50 / timing.p50, 3),
        )
        for name, timing in timings.items()
    ]


def show(rows: Sequence[TesNetRow]) -> None:
    first = rows[0]
    print(f"\n{first.case}, {first.threads} threads{not_quiet(first)}")
    for row in rows:
        print(f"{row.provider:12}{row.p50_ms:10.2f} ms {row.faster_than_original:7.2f} x")
        if row.provider == OURS:
            ratio = row.faster_than_original
            print(judged(f"{'':12}{ratio:.2f} x the original", f">= {TESNET_RATIO:g} x", ratio >= TESNET_RATIO))


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("tesnet-head", __doc__, TESNET)
    parser.add_argument("--cases", default=",".join(CASES), help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=8.0, help="about how long a case is timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    cases = [{**CASES, TINY.name: TINY}[name] for name in arguments.cases.split(",")]
    torch.set_num_threads(arguments.threads)
    machine = begin(arguments, "test_tesnet_losses.py", "models/test_tesnet.py")
    for case in cases:
        rows = run_case(machine, case, arguments.seconds)
        show(rows)
        append_rows(arguments.out, rows)
    return 0
