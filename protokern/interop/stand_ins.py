"""What stands for the objects of a pickle: texts and numbers as they are, tensors as views of stored numbers, and an
`Inert` in place of everything else. See pickles.py, which runs the pickle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from protokern.errors import CheckpointError

LARGEST_COUNT = 2**63
_MOST_DIMENSIONS = 16


class Name:
    """A class or function that a pickle names, which is neither imported nor called.

    Attributes:
        path: such as "torch.nn.modules.conv.Conv2d".
    """

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class Inert:
    """Stands for an object that is not rebuilt.

    Attributes:
        path: of its class, or of the function that would have made it.
        state: what the pickle says of its attributes; {} if nothing.
    """

    __slots__ = ("path", "state")

    def __init__(self, path: str) -> None:
        self.path = path
        self.state: dict[Any, Any] = {}


class StoredNumbers:
    """Where the numbers of tensors are in the file.

    Attributes:
        kind: of the numbers, such as "FloatStorage".
        key: the name of the storage in the file.
        start, count: which of its numbers these are.
    """

    __slots__ = ("count", "key", "kind", "start")

    def __init__(self, kind: str, key: str, start: int, count: int) -> None:
        self.kind, self.key, self.start, self.count = kind, key, start, count


class TensorRecord:
    """A tensor as the pickle describes it: a view of stored numbers, which lies inside of them."""

    __slots__ = ("numbers", "offset", "shape", "stride")

    def __init__(self, numbers: StoredNumbers, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.numbers, self.offset, self.shape, self.stride = numbers, offset, shape, stride


def set_items(target: Any, items: list[Any]) -> None:
    if isinstance(target, Inert):
        return
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("it sets items of something that is no dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if _is_key(key):
            target[key] = value


def _is_key(value: Any) -> bool:
    if isinstance(value, tuple):  # one that holds others may take exponential time to hash
        return len(value) <= _MOST_DIMENSIONS and all(isinstance(one, int | float | str) for one in value)
    return isinstance(value, int | float | str | bytes | Inert | Name | TensorRecord) or value is None


def stand_in(function: Any, arguments: Any) -> Any:
    """What stands for the result of a call, or for a new object of a class."""
    if not isinstance(arguments, tuple):
        raise ValueError("it calls something without a tuple of arguments")
    path = function.path if isinstance(function, Name | Inert) else "?"
    make = _REBUILT.get(path)
    if make is not None:
        return make(*arguments[: _NUM_ARGUMENTS[path]])
    if path in _RECONSTRUCTORS and arguments and isinstance(arguments[0], Name):
        path = arguments[0].path
    return Inert(path)


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for pair in _items(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError("it makes a dictionary of something that is no pairs")
        set_items(made, list(pair))
    return made


def _items(value: Any = ()) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError("it makes a collection of something that is none")
    return list(value)


def _parameter(data: Any) -> Any:
    return data


def _tensor(numbers: Any, offset: Any, shape: Any, stride: Any) -> Any:
    """A tensor, checked to lie inside of its numbers and to have no more entries than these."""
    if not isinstance(numbers, StoredNumbers):
        return Inert("torch.Tensor")  # of a storage that is no part of the file
    counts = (offset, *_items(shape), *_items(stride))
    is_count = all(type(one) is int and 0 <= one < LARGEST_COUNT for one in counts)
    if not is_count or len(shape) != len(stride) or len(shape) > _MOST_DIMENSIONS:
        raise CheckpointError("has a tensor whose shape or strides are no counts")
    size = math.prod(shape)
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if size and (last >= numbers.count or size > numbers.count):
        raise CheckpointError(
            f"has a tensor of shape {tuple(shape)} and strides {tuple(stride)} that lies outside of its "
            f"{numbers.count} numbers"
        )
    return TensorRecord(numbers, offset, tuple(shape), tuple(stride))


def _typed_tensor(function: Any, _kind: Any, arguments: Any) -> Any:
    """A tensor of a class of its own, or with attributes: the tensor alone."""
    if isinstance(function, Name) and _REBUILT.get(function.path) in (_tensor, _parameter):
        return stand_in(function, arguments)
    return Inert("torch.Tensor")


# The functions and classes whose results are rebuilt, and how many of the arguments are read.
_REBUILT: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda *_: {},
    "builtins.set": _items,
    "builtins.frozenset": _items,
    "__builtin__.set": _items,
    "__builtin__.frozenset": _items,
    "torch.Size": lambda sizes=(): tuple(_items(sizes)),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
}
_NUM_ARGUMENTS = dict.fromkeys(_REBUILT, 1) | {
    "torch._utils._rebuild_tensor": 4,
    "torch._utils._rebuild_tensor_v2": 4,
    "torch._tensor._rebuild_from_type_v2": 3,
}
_RECONSTRUCTORS = ("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__")


def find_storage(identity: Any) -> Any:
    """What a reference out of the pickle means: stored numbers, or a class together with its source text."""
    if not isinstance(identity, tuple) or not identity:
        raise ValueError("it refers to something unknown outside of it")
    if identity[0] == "module" and len(identity) >= 2 and isinstance(identity[1], Name):
        return identity[1]
    if identity[0] != "storage" or len(identity) not in (5, 6) or not isinstance(identity[1], Name):
        raise ValueError("it refers to something unknown outside of it")
    _, kind, key, _, count, *view = identity
    key = str(key) if isinstance(key, int) else key
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise ValueError("a storage has no name or no size")
    start = 0
    if view and view[0] is not None:
        _, start, count = _view_of(view[0], count)
    return StoredNumbers(kind.path.rpartition(".")[2], key, start, count)


def _view_of(view: Any, count: int) -> tuple[Any, int, int]:
    """The view of a storage that the oldest files name: its key, start and number of entries."""
    is_view = isinstance(view, tuple) and len(view) == 3 and all(type(one) is int and one >= 0 for one in view[1:])
    if not is_view or view[1] + view[2] > count:
        raise CheckpointError("has a view that lies outside of its storage")
    return view[0], view[1], view[2]
