"""Changes to a checkpoint by somebody who also mends its checksums: what is then refused has another reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from protokern.storage.files import CHECKSUM, seal, sha256


def change_table(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Let `change` work on what a sealed JSON file holds."""
    table = json.loads(path.read_text())
    del table[CHECKSUM]
    change(table)
    path.write_text(json.dumps(seal(table)))


def change_tensors(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Let `change` work on the tensors of a file of a checkpoint."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    mend_checksum(path)


def mend_checksum(path: Path) -> None:
    """Make the checkpoint's table agree with this file of it."""
    content = path.read_bytes()
    change_table(path.with_name("state.json"), lambda table: table["files"].update({path.name: sha256(content)}))
