"""The names a user may rely on, and that importing them stays cheap."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import protokern


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_public_names() -> None:
    assert set(protokern.__all__) == {
        "__version__",
        "LogitsOnly",
        "MinDistance",
        "PrototypePool",
        "TopKPool",
        "available_backends",
        "distance_at",
        "distance_map",
        "load",
        "mean_activation",
        "min_distance",
        "nearest_examples",
        "prototype_pool",
        "topk_pool",
        "wrap",
    }


@pytest.mark.parametrize("name", protokern.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(protokern, name) is not None
    assert name in dir(protokern)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'protokern' has no attribute 'min_distnace'"):
        _ = protokern.min_distnace


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert run_python("import sys, protokern; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize(
    "module", ["protokern.kernels", "protokern.nn", "protokern.models", "protokern.push", "protokern.metrics"]
)
def test_the_layer_and_the_models_do_without_drawing(module: str) -> None:
    """Plots, pages, progress bars and the backbone zoo are loaded by those who use them."""
    heavy = "{'matplotlib', 'jinja2', 'rich', 'torchvision', 'pydantic', 'PIL'}"
    assert run_python(f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))") == "[]"


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("train.checkpoint", "runs.open", "load_model"),
        ("cli.runs", "runs.open", "OpenRun open_run"),
        ("cli.runs", "runs.data", "open_data"),
        ("train.settings", "config.train", "PruneConfig TrainConfig"),
        ("train.last_layer", "solvers.last_layer", "collect_activations collect_inputs solve_last_layer"),
        ("train.quality", "runs.quality", "answer_warnings copied_prototypes model_warnings"),
    ],
)
def test_old_addresses_still_work(old: str, new: str, names: str) -> None:
    """Documents named them, so programs import from there."""
    there, here = import_module(f"protokern.{old}"), import_module(f"protokern.{new}")
    assert all(getattr(there, name) is getattr(here, name) for name in names.split())
