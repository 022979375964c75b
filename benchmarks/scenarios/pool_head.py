"""Forward and backward of ProtoPool's head, from features to logits: `python -m benchmarks pool-head`.

The size is that of the paper on CUB-200-2011, with 128 channels: 80 images, 202 prototypes, a grid of 7 x 7, 200
classes with 10 slots. Ours, the released formula and the best eager one take turns. Before that, their values and all
gradients are compared with the released formula in float64, with the same noise; a method that is further off than
rounding explains is not timed. The extra memory of each is measured in a separate process.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.ops.machine import Machine, watch_others
from benchmarks.ops.memory import GIVE_BACK, extra_bytes, in_new_process
from benchmarks.ops.timing import Timed, measure
from benchmarks.pages.results import POOL, append_rows
from benchmarks.pages.scenario_rows import PoolRow
from benchmarks.pages.show import not_quiet
from benchmarks.pages.targets import POOL_RATIO, judged
from benchmarks.scenarios.pool_formulas import Head, eager, original
from benchmarks.scenarios.scenario import begin, columns, flags, time_columns
from protokern.models import ProtoPool
from protokern.nn.slots import FULL_SCALE, gumbel_noise

OURS = "protokern"
FORMULAS: dict[str, Callable[..., Tensor]] = {"original": original, "eager": eager}
PROVIDERS = (OURS, *FORMULAS)
SECOND_EPOCH = FULL_SCALE / 30**0.5  # the scale in epoch 1 of the 30 that it rises in
# Of the largest entry of a tensor. At the largest scale a logit's last bit is 1e-5 of the share that it makes.
TOLERANCE = 3e-5


@dataclass(frozen=True)
class PoolCase:
    """Sizes, focal, and the scale of the choices; None: the choices are final."""

    name: str
    focal: Literal["distance", "similarity"]
    scale: float | None
    images: int = 80
    depth: int = 128
    side: int = 7
    prototypes: int = 202
    classes: int = 200
    slots: int = 10

    @property
    def map_bytes(self) -> int:
        """One B x P x H x W tensor of float32."""
        return 4 * self.images * self.prototypes * self.side**2


CASES = {
    case.name: case
    for case in (
        PoolCase("distance-soft", "distance", SECOND_EPOCH),
        PoolCase("distance-late", "distance", FULL_SCALE),
        PoolCase("distance-hard", "distance", None),
        PoolCase("similarity-soft", "similarity", SECOND_EPOCH),
        PoolCase("similarity-hard", "similarity", None),
    )
}
TINY = PoolCase("tiny", "distance", 5.0, images=3, depth=6, side=3, prototypes=7, classes=4, slots=2)


def make_model(case: PoolCase) -> ProtoPool:
    """A pool in training mode; its final choices are far from ties, so that the released formula makes them too."""
    torch.manual_seed(0)
    model = ProtoPool(
        nn.Identity(),
        case.classes,
        num_prototypes=case.prototypes,
        slots_per_class=case.slots,
        prototype_dim=case.depth,
        focal=case.focal,
        in_channels=case.depth,
        image_size=case.side,
    )
    if case.scale is None:
        with torch.no_grad():
            model.assignment.presence_logits.fill_(-1)
            for logits in model.assignment.presence_logits:
                logits[torch.randperm(case.prototypes)[: case.slots], torch.arange(case.slots)] = 1
        model.harden()
    else:
        model.set_progress(1)
        model.assignment.scale.fill_(case.scale)
    return model.train()


def make_head(case: PoolCase, model: ProtoPool) -> Head:
    """The model's own tensors, and features as near to the prototypes as after a sigmoid."""
    features = torch.rand(case.images, case.depth, case.side, case.side).requires_grad_()
    assert isinstance(model.last_layer, nn.Linear)
    return Head(
        case.focal,
        features,
        model.prototype_layer.prototypes,
        model.assignment.presence_logits,
        model.last_layer.weight,
        model.slots if case.scale is None else None,
        case.scale or 0.0,
    )


def make_step(name: str, case: PoolCase, model: ProtoPool, head: Head) -> Callable[[], list[Tensor]]:
    """Logits and the gradients of all leaves, for one fixed gradient of the logits."""
    grad = torch.randn(case.images, case.classes, generator=torch.Generator().manual_seed(1))

    def step() -> list[Tensor]:
        logits = model.head(head.features).logits if name == OURS else FORMULAS[name](head)
        return [logits, *torch.autograd.grad(logits, head.leaves, grad)]

    return step


def errors(case: PoolCase) -> dict[str, float]:
    """How far logits and gradients of each provider are from the released formula in float64.

    Relative to the largest entry of the tensor; the largest over the tensors.
    """
    model = make_model(case)
    head = make_head(case, model)
    torch.manual_seed(2)
    noise = gumbel_noise(head.presence_logits.transpose(1, 2)).transpose(1, 2)
    grad = torch.randn(case.images, case.classes)
    exact_head = head.to(torch.float64)
    exact = with_gradients(original(exact_head, noise.double()), exact_head, grad.double())
    found = {name: with_gradients(formula(head, noise), head, grad) for name, formula in FORMULAS.items()}
    torch.manual_seed(2)  # ours draws the same noise
    found[OURS] = with_gradients(model.head(head.features).logits, head, grad)
    return {
        name: max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(tensors, exact, strict=True))
        for name, tensors in found.items()
    }


def with_gradients(logits: Tensor, head: Head, grad: Tensor) -> list[Tensor]:
    return [logits.detach(), *torch.autograd.grad(logits, head.leaves, grad)]


def extra_bytes_here(name: str, case: PoolCase) -> int:
    """Bytes of one step beyond its tensors and results, in this process, which must be fresh."""
    found = 0
    for one in (TINY, case):
        model = make_model(one)
        found = extra_bytes(make_step(name, one, model, make_head(one, model)))
    return found


def extra_bytes_apart(name: str, case: PoolCase) -> int:
    """The same in a new process."""
    return int(in_new_process("pool-head", "--child", name, "--cases", case.name, environment=GIVE_BACK))


def run_case(machine: Machine, case: PoolCase, seconds: float) -> list[PoolRow]:
    """Check, time and weigh all providers."""
    off = {name: error for name, error in errors(case).items() if not error <= TOLERANCE}
    if OURS in off:
        raise RuntimeError(f"{case.name}: must be within {TOLERANCE:g} of the released formula; got {off[OURS]:.2g}.")
    model = make_model(case)
    head = make_head(case, model)
    calls = {name: Timed(call=make_step(name, case, model, head)) for name in PROVIDERS if name not in off}
    with watch_others() as others:
        timings = measure(calls, seconds=seconds)
    first = timings["original"].p50 if "original" in timings else None
    return [
        PoolRow(
            **columns(machine, others),
            **time_columns(timing),
            provider=name,
            **{key: value for key, value in asdict(case).items() if key not in ("name", "scale")},
            case=case.name,
            scale=None if case.scale is None else round(case.scale, 1),
            faster_than_original=None if first is None else round(first / timing.p50, 3),
            extra_mb=round(extra_bytes_apart(name, case) / 1e6, 3),
            map_mb=round(case.map_bytes / 1e6, 3),
        )
        for name, timing in timings.items()
    ]


def show(rows: Sequence[PoolRow]) -> None:
    first = rows[0]
    print(f"\n{first.case}, {first.threads} threads{not_quiet(first)}")
    for row in rows:
        times = "" if row.faster_than_original is None else f"{row.faster_than_original:7.2f} x"
        print(f"{row.provider:12}{row.p50_ms:10.2f} ms {times}{row.extra_mb:10.2f} MB")
        if row.provider == OURS and row.faster_than_original is not None:
            ratio = row.faster_than_original
            print(judged(f"{'':12}{ratio:.2f} x the original", f">= {POOL_RATIO:g} x", ratio >= POOL_RATIO))


def main(argv: Sequence[str] | None = None) -> int:
    parser = flags("pool-head", __doc__, POOL)
    parser.add_argument("--cases", default=",".join(CASES), help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=6.0, help="about how long a case is timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--child", choices=PROVIDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    cases = [{**CASES, TINY.name: TINY}[name] for name in arguments.cases.split(",")]
    if arguments.child is not None:
        print(json.dumps(extra_bytes_here(arguments.child, cases[0])))
        return 0
    torch.set_num_threads(arguments.threads)
    machine = begin(arguments, "nn/test_mean_distance.py", "nn/test_soft_choice.py")
    for case in cases:
        rows = run_case(machine, case, arguments.seconds)
        show(rows)
        append_rows(arguments.out, rows)
    return 0
