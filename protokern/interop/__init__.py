"""Networks of other programs: as models of protokern, or with its ops inside; and CaBRNet.

`protokern.interop.cabrnet` is imported by name, because it needs CaBRNet.
"""

from __future__ import annotations

from .imported_run import with_images, write_run
from .loading import ReleasedNet, load_released
from .released import accelerate

__all__ = ["ReleasedNet", "accelerate", "load_released", "with_images", "write_run"]
