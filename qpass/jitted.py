"""`Jitted`: a transformed function under `jax.jit`, or `nnx.jit` where Flax NNX objects come in."""

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any, Self

import jax

from qpass.beside import Beside
from qpass.given import Given
from qpass.integrations.boundary import holds_objects
from qpass.transformed import Transformed


class Jitted:
    """A jitted function with its contractions quantized by rules.

    Has all that `jax.jit` gives its functions (``lower``, ``trace``, ``eval_shape``, …), and
    `plan`, `quantize`, `compare` and `nonfinite` of `Transformed`. Flax NNX objects among the
    arguments are updated as under `nnx.jit`.

    Args:
        fn: the transformed function.
        options: options of `jax.jit`.
        compiled: what is compiled, where that is not the function itself.
    """

    def __init__(
        self, fn: Transformed, options: dict[str, Any], compiled: Callable | None = None
    ) -> None:
        functools.update_wrapper(self, fn, updated=())
        self._fn = fn
        self._options = options
        self._compiled = compiled or fn
        self._pure: Any = jax.jit(self._compiled, **options)
        self._structures: dict[Any, bool] = {}
        self.plan = fn.plan
        self.quantize = fn.quantize
        self.compare = fn.compare
        self.capture = fn.capture
        self.calibrate = fn.calibrate
        self.nonfinite = fn.nonfinite
        self.init_state = fn.init_state
        self.init_adapters = fn.init_adapters
        self.merge = fn.merge
        self.quantize_cache = fn.quantize_cache
        self.init_ranges = fn.init_ranges
        self.init_masks = fn.init_masks
        self.update_masks = fn.update_masks

    def with_ranges(self, ranges: Mapping[str, Any]) -> "Jitted":
        """The same with these ranges for static operands: see `Transformed.with_ranges`."""
        return Jitted(self._fn.with_ranges(ranges), self._options)

    def with_key(self, key: Any) -> "GivenJit":
        """The same with a random key: see `Transformed.with_key`. Keys share one compilation."""
        return GivenJit(self, Given()).with_key(key)

    def with_adapters(self, adapters: Mapping[str, Any]) -> "GivenJit":
        """The same with adapters: see `Transformed.with_adapters`. They share one compilation."""
        return GivenJit(self, Given()).with_adapters(adapters)

    def with_masks(self, masks: Mapping[str, Any]) -> "GivenJit":
        """The same with masks: see `Transformed.with_masks`. They share one compilation."""
        return GivenJit(self, Given()).with_masks(masks)

    def with_state(self, state: Mapping[str, Any]) -> "GivenJit":
        """The same with a state: see `Transformed.with_state`. States share one compilation."""
        return GivenJit(self, Given()).with_state(state)

    def apply(self, state: Mapping[str, Any], /, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Its result and the state after this step: see `Transformed.apply`.

        Options are those of the function: to donate the state, jit `Transformed.apply` itself.
        """
        return GivenJit(self, Given()).apply(state, *args, **kwargs)

    def knowing(self, given: Given) -> Transformed:
        """The transformed function with these values beside its arguments."""
        return replace(self._fn, given=replace(given, ranges=self._fn.given.ranges))

    @functools.cached_property
    def taking_given(self) -> "Jitted":
        """The same with one more argument, by keyword: ``qpass_given``."""

        def informed(*args: Any, qpass_given: Given, **kwargs: Any) -> Any:
            return self.knowing(qpass_given)(*args, **kwargs)

        # As jax.jit looks up names of arguments: they are those of the function.
        functools.update_wrapper(informed, self._fn, updated=())
        return Jitted(self._fn, self._options, informed)

    @functools.cached_property
    def recording(self) -> "Jitted":
        """The same; it gives the next state of delayed scaling as well."""

        def recorded(*args: Any, qpass_given: Given, **kwargs: Any) -> Any:
            return self.knowing(qpass_given).apply(qpass_given.state, *args, **kwargs)

        functools.update_wrapper(recorded, self._fn, updated=())
        return Jitted(self._fn, self._options, recorded)

    @functools.cached_property
    def _stateful(self) -> Any:
        from flax import nnx

        return nnx.jit(self._compiled, **self._options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with its quantized products; same signature and results."""
        return self._for(args, kwargs)(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """Lower it for these arguments: see `jax.jit`."""
        return self._for(args, kwargs).lower(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Trace it for these arguments: see `jax.jit`."""
        return self._for(args, kwargs).trace(*args, **kwargs)

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Shapes and dtypes of its results for these arguments: see `jax.jit`."""
        return self._for(args, kwargs).eval_shape(*args, **kwargs)

    def clear_cache(self) -> None:
        """Forget what was compiled."""
        self._pure.clear_cache()
        self.__dict__.pop("_stateful", None)

    def __getattr__(self, name: str) -> Any:
        if name == "_pure":  # not there yet: an object that is being copied
            raise AttributeError(name)
        return getattr(self._pure, name)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def _for(self, args: tuple, kwargs: dict) -> Any:
        """The jitted function for these arguments; what they hold is looked up by structure."""
        if "flax.nnx" not in sys.modules:
            return self._pure
        structure = jax.tree.structure((args, kwargs))
        try:
            stateful = self._structures.get(structure)
        except TypeError:  # something in the structure cannot be hashed
            stateful = holds_objects((args, kwargs))
        if stateful is None:
            stateful = self._structures[structure] = holds_objects((args, kwargs))
        return self._stateful if stateful else self._pure


@dataclass(frozen=True, eq=False)
class GivenJit(Beside):
    """A `Jitted` with a key, adapters, masks or a state: one more argument of what is compiled.

    Attributes:
        jitted: the function.
        given: what it is given.
    """

    jitted: Jitted
    given: Given

    def with_ranges(self, ranges: Mapping[str, Any]) -> Self:
        """The same with these ranges for static operands, which need another compilation."""
        return replace(self, jitted=self.jitted.with_ranges(ranges))

    def apply(self, state: Mapping[str, Any], /, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Its result and the state after this step: see `Transformed.apply`."""
        given = self.with_state(state).given
        return self.jitted.recording(*args, qpass_given=given, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with its quantized products; same signature and results."""
        return self.jitted.taking_given(*args, qpass_given=self.given, **kwargs)

    def quantize(self, *args: Any, **kwargs: Any) -> Any:
        """Quantize the parameters with this key: see `Transformed.quantize`."""
        return self.jitted.knowing(self.given).quantize(*args, **kwargs)

    def compare(self, *args: Any, **kwargs: Any) -> Any:
        """Error of every quantized site with this key: see `Transformed.compare`."""
        return self.jitted.knowing(self.given).compare(*args, **kwargs)
