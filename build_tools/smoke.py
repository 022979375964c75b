"""Whether an installed protokern works, in half a minute: `make release` runs it in each clean environment.

Prints one line per check; the first that does not hold ends the program with its error.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import protokern

# A training that sees every part of the package but learns nothing: two species, one epoch.
TRAINING = {
    "model.backbone": "tiny",
    "model.prototype_dim": "16",
    "model.prototypes_per_class": "2",
    "data.image_size": "64",
    "data.birds_classes": "2",
    "data.birds_train": "6",
    "data.birds_val": "2",
    "data.birds_test": "2",
    "train.warm_epochs": "0",
    "train.joint_epochs": "1",
    "train.live_epochs": "0",
}


def command_line(*arguments: str) -> str:
    """What `protokern ARGUMENTS` prints; the installed program, not the module."""
    program = Path(sys.executable).with_name("protokern")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"protokern {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def check_installation() -> str:
    folder = Path(protokern.__file__).resolve().parent
    if not folder.is_relative_to(Path(sys.prefix).resolve()):
        raise SystemExit(f"protokern comes from {folder}, not from this environment, {sys.prefix}")
    return f"protokern {protokern.__version__}, torch {torch.__version__}"


def check_doctor() -> str:
    facts = dict(line.split("  ", 1) for line in command_line("doctor").splitlines())
    native = facts["backend native"].strip()
    if not native.startswith("yes"):
        raise SystemExit(f"protokern doctor: backend native: {native}")
    return f"doctor: backend native: {native}; {facts['instruction set'].strip()}"


def check_op() -> str:
    """Values, patches and both gradients of the native backend against the reference, in float64."""
    torch.manual_seed(0)
    features = torch.rand(3, 20, 5, 6, dtype=torch.float64)
    prototypes = torch.rand(7, 20, dtype=torch.float64)
    answers = []
    for backend in ("native", "reference"):
        inputs = (features.clone().requires_grad_(), prototypes.clone().requires_grad_())
        found = protokern.min_distance(*inputs, backend=backend)
        found.value.square().sum().backward()
        answers.append((found.value.detach(), found.patch, *(one.grad for one in inputs)))
    for native, reference in zip(*answers, strict=True):
        torch.testing.assert_close(native, reference)
    return "min_distance: native and reference agree, values and gradients"


def check_training() -> str:
    with tempfile.TemporaryDirectory() as folder:
        settings = [part for key, value in TRAINING.items() for part in ("--set", f"{key}={value}")]
        command_line("train", "--recipe", "paper", "--out", f"{folder}/run", *settings)
        page = Path(folder, "run", "report", "index.html")
        return f"train: one epoch of the synthetic birds, report of {page.stat().st_size // 1024} KiB"


def main() -> None:
    for check in (check_installation, check_doctor, check_op, check_training):
        print(check(), flush=True)


if __name__ == "__main__":
    main()
