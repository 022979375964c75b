"""Networks of other programs: as models of protokern, or with its ops inside; and CaBRNet.

`protokern.interop.cabrnet` is imported by name, because it needs CaBRNet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protokern.deferred import defer

if TYPE_CHECKING:
    from .export.hub import Pretrained, from_pretrained, save_pretrained
    from .loading import ReleasedNet, load_released
    from .released import accelerate

__all__ = ["Pretrained", "ReleasedNet", "accelerate", "from_pretrained", "load_released", "save_pretrained"]

__getattr__ = defer(
    __name__,
    {
        "Pretrained": "protokern.interop.export.hub",
        "ReleasedNet": "protokern.interop.loading",
        "accelerate": "protokern.interop.released",
        "from_pretrained": "protokern.interop.export.hub",
        "load_released": "protokern.interop.loading",
        "save_pretrained": "protokern.interop.export.hub",
    },
)
