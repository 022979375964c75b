"""Takes away the tests that Triton's interpreter does not run, and watches over what the others write in a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from protokern.kernels.triton_common import availability

from .interpreted import reason_left_out


@pytest.fixture(autouse=True, scope="session")
def constants_hold_no_tensor() -> Iterator[None]:
    """Refuse `CONSTANT * tensor` in an interpreted kernel: a constant that holds a tensor.

    The interpreter of Triton 3.6 takes one everywhere, later ones not within a larger expression; no compiler minds.
    """
    if not availability.is_interpreted() or find_spec("triton") is None:
        yield
        return
    import triton.language as tl

    make = tl.constexpr.__init__

    def checked(self: Any, value: Any) -> None:
        assert not isinstance(value, tl.tensor), "a constant left of a tensor: write the tensor first"
        make(self, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tl.constexpr, "__init__", checked)
        yield


@pytest.fixture(autouse=True, scope="session")
def language_is_patched_once_a_launch() -> Iterator[None]:
    """Let Triton's interpreter put its functions into the language once a launch, not at every call of a function.

    A call inside a kernel does it again, for nothing: half of the time of these tests, with Triton 3.6 to 3.9.
    """
    if not availability.is_interpreted() or find_spec("triton") is None:
        yield
        return
    from triton.runtime import interpreter

    patch_language = interpreter._patch_lang
    patched: set[int] = set()

    class Launch:
        def __init__(self, function: Callable[..., Any]) -> None:
            self.scope = patch_language(function)

        def restore(self) -> None:
            patched.clear()
            self.scope.restore()

    def patch_once(function: Callable[..., Any]) -> Launch | None:
        module = id(function.__globals__)
        if module in patched:
            return None
        patched.add(module)
        return Launch(function)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", patch_once)
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if _is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    for item in items:
        if _parameters(item).get("backend") == "triton" and not item.get_closest_marker("gpu"):
            # NumPy, which computes for the interpreter, warns of what a GPU does in silence.
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
            # Triton 3.6 takes numbers out of arrays in a way that NumPy 2.4 refuses and earlier ones warn of.
            item.add_marker(pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"))


def _is_left_out(item: pytest.Item) -> bool:
    parameters = _parameters(item)
    # Tests of every folder that takes part in a run come by here; those marked gpu have a device.
    if parameters.get("backend") != "triton" or item.get_closest_marker("gpu"):
        return False
    return bool(reason_left_out(item.iter_markers("interpreted"), parameters))


def _parameters(item: pytest.Item) -> dict[str, object]:
    return item.callspec.params if hasattr(item, "callspec") else {}
