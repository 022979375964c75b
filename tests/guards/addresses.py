"""Names by which programs, files and other people find what is in the package. Runs inside either revision."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree

from protokern.backbones import build_backbone
from protokern.models import ProtoPNet, ProtoPool
from protokern.nn import PrototypeLayer

PARTS = ("backbones", "data", "explain", "features", "kernels", "losses", "metrics", "models", "nn", "report", "search")
_IMPORT = re.compile(r"from\s+(protokern[\w.]*)\s+import\s+(\([^)]*\)|[^\n#;]+)")
_YAML = re.compile(r"module:\s*(protokern[\w.]*).*\n\s*name:\s*(\w+)")
_DOTTED = re.compile(r"\bprotokern(?:\.[A-Za-z]\w*)+")


def documented(tree: str) -> list[str]:
    """Every dotted name in README, docs, examples and the pages beside the code that leads somewhere."""
    pages = [Path(tree, "README.md")]
    pages += [
        path for pattern in ("docs/**/*.md", "protokern/**/*.md", "examples/**/*") for path in Path(tree).glob(pattern)
    ]
    names = {name for path in pages if path.is_file() for name in _names_in(path.read_text(encoding="utf-8"))}
    return sorted(name for name in names if _leads_somewhere(name))


def missing(names: list[str]) -> list[str]:
    """Those of the names that lead nowhere."""
    return [name for name in names if not _leads_somewhere(name)]


def _names_in(text: str) -> Iterator[str]:
    for module, imported in _IMPORT.findall(text):
        for name in re.findall(r"(\w+)(?:\s+as\s+\w+)?\s*(?:,|\)|$)", imported.strip()):
            yield f"{module}.{name}"
    for module, name in _YAML.findall(text):
        yield f"{module}.{name}"
    yield from _DOTTED.findall(text)


def _leads_somewhere(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def public() -> list[str]:
    """All that the package and its parts list in `__all__`."""
    modules = ["protokern", *(f"protokern.{part}" for part in PARTS)]
    return sorted(f"{module}.{name}" for module in modules for name in import_module(module).__all__)


def schemas() -> list[str]:
    """Every op with its arguments, in the package's two namespaces."""
    found = (str(schema) for schema in torch._C._jit_get_all_schemas())
    return sorted(schema for schema in found if schema.startswith(("protokern::", "protokern_native::")))


def serialized() -> list[str]:
    """The names under which torch.export writes our types."""
    return sorted(name for name in _pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE if name.startswith("protokern"))


def write_programs(folder: str) -> list[str]:
    """Export a layer and each model, with what they answered."""
    torch.manual_seed(0)
    net = build_backbone("tiny", weights="none")
    features, images = torch.rand(2, 4, 5, 6), torch.rand(2, 3, 32, 32)
    modules = {
        "layer": (PrototypeLayer(5, 4), features),
        "cosine": (PrototypeLayer(5, 4, metric="cosine", activation="cosine"), features),
        "nearest": (PrototypeLayer(5, 4, top_k=3), features),
        "protopnet": (ProtoPNet(net, 3, prototypes_per_class=2, prototype_dim=5, image_size=32).eval(), images),
        "pool": (ProtoPool(net, 3, num_prototypes=6, slots_per_class=2, prototype_dim=5, image_size=32).eval(), images),
    }
    Path(folder).mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (module, inputs) in modules.items():
            torch.export.save(torch.export.export(module, (inputs,)), Path(folder, f"{name}.pt2"))
            with torch.no_grad():
                torch.save((inputs, _tensors(module(inputs))), Path(folder, f"{name}.pt"))
    return list(modules)


def open_programs(folder: str) -> dict[str, str]:
    """What becomes of each exported program that was written there: the same bits, or what is wrong."""
    answers = {}
    for path in sorted(Path(folder).glob("*.pt2")):
        inputs, wanted = torch.load(path.with_suffix(".pt"))
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                found = _tensors(torch.export.load(path).module()(inputs))
            is_same = len(found) == len(wanted) and all(map(torch.equal, found, wanted))
            answers[path.stem] = "the same bits" if is_same else "other numbers"
        except Exception as error:
            answers[path.stem] = f"{type(error).__name__}: {error}"
    return answers


def _tensors(output: Any) -> list[torch.Tensor]:
    return [one for one in _pytree.tree_leaves(output) if isinstance(one, torch.Tensor)]
