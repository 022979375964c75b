"""Our layers inside other people's programs: networks of the released programs, and CaBRNet.

`protokern.interop.cabrnet` is imported by name, because it needs CaBRNet.
"""

from __future__ import annotations

from .released import accelerate

__all__ = ["accelerate"]
