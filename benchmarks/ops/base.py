"""Is this tree faster than another revision of it? `python -m benchmarks ops --base main`.

The other revision is checked out into build/base with its C++. Each tree has a process (side.py), and their samples
take turns as those of different providers do. Before that the tests of the ops run in both trees, and the answers of
both are checked against float64. Ours alone are timed, and nothing is stored.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks.commit import ROOT
from benchmarks.ops import gate
from benchmarks.ops.cases import CASES, Point
from benchmarks.ops.devices import Device
from benchmarks.ops.machine import Machine, own_seconds, settle, watch_others
from benchmarks.ops.ops import OPS
from benchmarks.ops.point import Outcome, Plan, make_sets, make_timers
from benchmarks.ops.providers import Missing, build_providers
from benchmarks.ops.timing import Call, Timed, Timing, measure
from benchmarks.pages.rows import Measurement
from benchmarks.pages.show import not_quiet, show_missing

BASES = ROOT / "build" / "base"
# What the C++ libraries are made of.
NATIVE_SOURCES = ("csrc", "build_tools", "CMakeLists.txt", "setup.py")
FASTER, SLOWER, SAME, UNKNOWN = "faster", "SLOWER", "no difference beyond the noise", "too few rounds to tell"
LEAST_ROUNDS = 5


def git(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)


def check_out(revision: str, root: Path = ROOT, bases: Path = BASES) -> Path:
    """A tree of the revision with its libraries; it stays for the next comparison.

    Raises:
        SystemExit: there is no such revision, or its libraries cannot be built.
    """
    found = git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", root=root)
    if found.returncode != 0:
        raise SystemExit(f"--base: must be a revision of the repository in {root}; got {revision!r}. See `git log`.")
    sha = found.stdout.strip()
    tree = bases / sha[:10]
    if not tree.exists():
        git("worktree", "prune", root=root)
        made = git("worktree", "add", "--detach", str(tree), sha, root=root)
        if made.returncode != 0:
            raise SystemExit(f"--base: {tree} must be a worktree of {revision}; git said: {made.stderr.strip()}")
    give_libraries(tree, sha, root)
    return tree


def give_libraries(tree: Path, sha: str, root: Path) -> None:
    """Those of this tree where their sources are the same; else they are built, once."""
    built = tree / "build" / "libraries-of-this-revision"
    if git("diff", "--quiet", sha, "--", *NATIVE_SOURCES, root=root).returncode == 0:
        built.unlink(missing_ok=True)
        for path in (root / "protokern").glob("_host*.so"):
            shutil.copy2(path, tree / "protokern")
        if (root / "protokern" / "lib").exists():
            shutil.copytree(root / "protokern" / "lib", tree / "protokern" / "lib", dirs_exist_ok=True)
        return
    if built.exists():
        return
    print(f"building the C++ of {sha[:10]}", flush=True)
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    # The tools of the environment first.
    tools = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    answer = subprocess.run(
        command, cwd=tree, env={**os.environ, "PATH": tools}, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise SystemExit(f"--base: the C++ of {sha[:10]} must build; it said:\n{answer.stderr[-2000:]}")
    built.parent.mkdir(exist_ok=True)
    built.touch()


class Session:
    """What the process of a tree does: one comparison after the other.

    Nothing here may know more of `protokern` than its public functions, since it can be that of any revision.
    """

    def __init__(self, device: Device) -> None:
        self._device, self._threads = device, torch.get_num_threads()
        self._timed: dict[str, Timed] = {}

    def answer(self, questions: IO[str], answers: IO[str]) -> None:
        """A line is a question in JSON, the name of a method in it; the answer is a line too."""
        for line in questions:
            question = json.loads(line)
            answer = getattr(self, question.pop("do"))(**question)
            print(json.dumps(answer), file=answers, flush=True)

    def describe(self) -> dict[str, Any]:
        return {"machine": asdict(self._device.describe()), "versions": self._device.versions()}

    def prepare(
        self, op: str, case: str, mode: str, threads: int | None, backends: list[str], precisions: list[str]
    ) -> dict[str, Any]:
        """Check the answers and keep the calls with right ones; returns which, and how many each makes at once."""
        self._timed.clear()
        self._device.release()
        torch.set_num_threads(threads or self._threads)
        inputs = make_sets(self._device, CASES[case], needs_grad=mode == "full")
        providers, _ = build_providers(OPS[op], mode, self._device.kind, backends, [], precisions)
        outcome = Outcome()
        timers = make_timers(self._device, OPS[op], providers, inputs, outcome)
        self._timed = {" ".join(key): timed for key, timed in timers.items()}
        return {
            "parts": {name: timed.parts for name, timed in self._timed.items()},
            "missing": [(one.what, one.reason) for one in outcome.missing],
            "wrong": [(one.what, one.reason) for one in outcome.wrong],
            "threads": torch.get_num_threads(),
        }

    def sample(self, name: str, repeats: int) -> float:
        timed = self._timed[name]
        timed.prepare()
        return timed.clock.milliseconds(timed.call, repeats)

    def repeats(self, name: str, expected_ms: float) -> int:
        return self._timed[name].clock.repeats(expected_ms)

    def own_seconds(self) -> float:
        return own_seconds()


class Side:
    """A tree and the process that measures it."""

    def __init__(self, name: str, tree: Path, kind: str) -> None:
        self.name, self.tree = name, tree
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ops.side", str(tree), kind],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do: str, **details: Any) -> Any:
        """The answer of a method of `Session`.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer tells
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: its process ended with {self._process.wait()} instead of `{do}`.")
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate()


@dataclass(frozen=True)
class SideClock:
    """Has a side take the samples."""

    side: Side
    name: str

    def milliseconds(self, call: Call, repeats: int = 1) -> float:
        return float(self.side.ask("sample", name=self.name, repeats=repeats))

    def repeats(self, expected_ms: float) -> int:
        return int(self.side.ask("repeats", name=self.name, expected_ms=expected_ms))


@dataclass
class Compared:
    """One point in both trees: the timings of the base and of this tree by provider, precision and timer."""

    timings: dict[str, tuple[Timing, Timing]] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    wrong: list[Missing] = field(default_factory=list)
    threads: int = 0


def compare(base: Side, here: Side, plan: Plan, point: Point) -> Compared:
    compared = Compared()
    parts: dict[Side, dict[str, int]] = {}
    for side in (base, here):
        said = side.ask(
            "prepare",
            op=point.op,
            case=point.case,
            mode=point.mode,
            threads=point.threads,
            backends=plan.backends,
            precisions=plan.precisions,
        )
        parts[side] = said["parts"]
        compared.threads = said["threads"]
        compared.missing += [Missing(f"{side.name}: {what}", reason) for what, reason in said["missing"]]
        compared.wrong += [Missing(f"{side.name}: {what}", reason) for what, reason in said["wrong"]]
    names = [name for name in parts[base] if name in parts[here]]
    calls = {
        # The two sides are two pools of threads, between which there is a pause.
        f"{side.name} {name}": Timed(
            call=lambda: None, clock=SideClock(side, name), pool=side.name, parts=parts[side][name]
        )
        for name in names
        for side in (base, here)
    }
    if calls:
        timings = measure(calls, seconds=plan.seconds, least=plan.least)
        compared.timings = {name: (timings[f"{base.name} {name}"], timings[f"{here.name} {name}"]) for name in names}
    return compared


def verdict(base: Timing, here: Timing) -> str:
    """Different only if four fifths of the samples of one side are beyond four fifths of the other's."""
    if min(base.rounds, here.rounds) < LEAST_ROUNDS:
        return UNKNOWN
    if here.p80 < base.p20:
        return FASTER
    return SLOWER if here.p20 > base.p80 else SAME


def lines(compared: Compared) -> list[str]:
    found = []
    for name, (base, here) in compared.timings.items():
        provider = name.removesuffix(" eager")
        times = f"{base.p50:11.4g} ms{here.p50:11.4g} ms{base.p50 / here.p50:9.3f} x"
        found.append(f"{provider:24}{times}   {verdict(base, here)}")
    return found


def run(arguments: argparse.Namespace, plan: Plan, missing: list[Missing], points: Sequence[Point]) -> int:
    """Compare every point; 1 where an answer of either tree was wrong, else 0."""
    tree, kind = check_out(arguments.base), arguments.device
    if not arguments.smoke:
        for root in (ROOT, tree):
            tests = [gate.op_tests(point.op, kind, root) for point in points]
            gate.require_green(list(dict.fromkeys(tests)), kind, root=root)
        settle(arguments.settle if kind == "cpu" else 0)
    base, here = Side("base", tree, kind), Side("here", ROOT, kind)
    try:
        return run_sides(arguments, plan, missing, points, (base, here))
    finally:
        base.close()
        here.close()


def run_sides(
    arguments: argparse.Namespace,
    plan: Plan,
    missing: list[Missing],
    points: Sequence[Point],
    sides: tuple[Side, Side],
) -> int:
    base, here = sides
    said = here.ask("describe")
    machine = Machine(**said["machine"])
    print(f"{machine.device}, {machine.cores} cores, {machine.isa}, torch {machine.torch_version}, {said['versions']}")
    print(f"base: {arguments.base} ({base.tree.name}); here: {machine.git_sha}; ratios above 1: here is faster")
    end = time.monotonic() + 60 * arguments.minutes
    wrong: list[Missing] = []
    verdicts: list[str] = []
    for index, point in enumerate(points):
        if time.monotonic() >= end:
            late = ", ".join(rest.name for rest in points[index:])
            missing.append(Missing(late, f"the {arguments.minutes:g} minutes are up"))
            break
        with watch_others(lambda: own_seconds() + sum(side.ask("own_seconds") for side in sides)) as others:
            compared = compare(base, here, plan, point)
        noise = not_quiet(Measurement(**said["machine"], others=round(others.cores, 2)))
        threads = "" if arguments.device == "cuda" else f", {compared.threads} threads"
        print(f"\n{point.op} {point.mode} {point.case} ({CASES[point.case].title}{threads}){noise}")
        print(f"{'':24}{'base':>14}{'here':>14}{'ratio':>11}")
        print("\n".join(lines(compared)), flush=True)
        missing += compared.missing
        wrong += compared.wrong
        verdicts += [verdict(*pair) for pair in compared.timings.values()]
    show_missing(missing, wrong)
    counts = (f"{verdicts.count(one)} {one}" for one in (FASTER, SLOWER, SAME, UNKNOWN) if one in verdicts)
    print(f"\nOf {len(verdicts)} times: {', '.join(counts)}")
    return 1 if wrong else 0
