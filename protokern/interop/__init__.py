"""Our layers inside other people's programs: networks of the released ProtoPNet and ProtoPool, and CaBRNet.

`protokern.interop.cabrnet` is imported by name, because it needs CaBRNet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protokern.deferred import defer

if TYPE_CHECKING:
    from .export.hub import Pretrained, from_pretrained, save_pretrained
    from .released import accelerate

__all__ = ["Pretrained", "accelerate", "from_pretrained", "save_pretrained"]

__getattr__ = defer(
    __name__,
    {
        "Pretrained": "protokern.interop.export.hub",
        "accelerate": "protokern.interop.released",
        "from_pretrained": "protokern.interop.export.hub",
        "save_pretrained": "protokern.interop.export.hub",
    },
)
