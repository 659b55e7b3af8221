"""What a transformed model object does, whichever framework its class is of."""

from collections.abc import Mapping
from typing import Any, Protocol, Self


class Call(Protocol):
    """A transformed function of a model object and its arguments (`qpass.Transformed`)."""

    def __call__(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        ...

    def plan(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Plan of a call."""
        ...

    def quantize(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The object with quantized weights."""
        ...

    def quantize_cache(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The object with quantized caches."""
        ...

    def capture(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Statistics of a call."""
        ...

    def calibrate(self, module: Any, /, *args: Any, **options: Any) -> Any:
        """Statistics of many calls."""
        ...

    def init_state(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The first state of delayed scaling."""
        ...

    def apply(self, state: Any, module: Any, /, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Result of a call and the next state."""
        ...

    def with_state(self, state: Any) -> Self:
        """The same with a state of delayed scaling."""
        ...

    def with_ranges(self, ranges: Mapping[str, Any]) -> Self:
        """The same with ranges for static operands."""
        ...

    def with_key(self, key: Any) -> Self:
        """The same with a key for stochastic rounding."""
        ...

    def init_adapters(self, key: Any, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Adapters for a call."""
        ...

    def with_adapters(self, adapters: Mapping[str, Any]) -> Self:
        """The same with adapters."""
        ...

    def merge(self, adapters: Mapping[str, Any], module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The object with adapters merged into its weights."""
        ...

    def init_ranges(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Learned ranges for a call."""
        ...

    def init_masks(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Masks for a call."""
        ...

    def update_masks(
        self, masks: Mapping[str, Any], step: Any, module: Any, /, *args: Any, **kwargs: Any
    ) -> Any:
        """Masks after a step."""
        ...

    def with_masks(self, masks: Mapping[str, Any]) -> Self:
        """The same with masks."""
        ...

    def compare(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Errors of a call."""
        ...

    def nonfinite(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Values of a call that are not finite."""
        ...


class CalledModule:
    """A model object with its contractions quantized by rules. Call it like the object itself.

    Attributes:
        module: the object.
        call: the transformed call of it (or of the method that was given).
    """

    module: Any
    call: Call

    def __init__(self, module: Any, call: Call) -> None:
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with its quantized products."""
        return self.call(self.module, *args, **kwargs)

    def plan(self, *args: Any, **kwargs: Any) -> Any:
        """The plan for these arguments: see `qpass.Transformed.plan`."""
        return self.call.plan(self.module, *args, **kwargs)

    def quantize(self, *args: Any, **kwargs: Any) -> Self:
        """The same with every stored weight as a QTensor: see `qpass.Transformed.quantize`."""
        return type(self)(self.call.quantize(self.module, *args, **kwargs), self.call)

    def quantize_cache(self, *args: Any, **kwargs: Any) -> Any:
        """The caches as QTensors: see `qpass.Transformed.quantize_cache`.

        Those of the module itself, as of a Flax NNX module: the same with them quantized.
        """
        found = self.call.quantize_cache(self.module, *args, **kwargs)
        return type(self)(found, self.call) if isinstance(found, type(self.module)) else found

    def capture(self, *args: Any, **kwargs: Any) -> Any:
        """Statistics of what the quantized products get: see `qpass.Transformed.capture`."""
        return self.call.capture(self.module, *args, **kwargs)

    def calibrate(self, batches: Any, **options: Any) -> Any:
        """Statistics over batches of arguments: see `qpass.Transformed.calibrate`."""
        return self.call.calibrate(self.module, batches, **options)

    def init_state(self, *args: Any, **kwargs: Any) -> Any:
        """The first state of delayed scaling: see `qpass.Transformed.init_state`."""
        return self.call.init_state(self.module, *args, **kwargs)

    def apply(self, state: Any, /, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Result of a call and the next state: see `qpass.Transformed.apply`."""
        return self.call.apply(state, self.module, *args, **kwargs)

    def with_state(self, state: Any) -> Self:
        """The same with a state that stays as it is: see `qpass.Transformed.with_state`.

        Like ranges, it belongs to the structure of this object: give it for an evaluation.
        """
        return type(self)(self.module, self.call.with_state(state))

    def with_ranges(self, ranges: Mapping[str, Any]) -> Self:
        """The same with ranges for static operands: see `qpass.Transformed.with_ranges`.

        They belong to the structure of this object, not to its leaves: nothing that updates a model
        updates them.
        """
        return type(self)(self.module, self.call.with_ranges(ranges))

    def with_key(self, key: Any) -> Self:
        """The same with a key for stochastic rounding: see `qpass.Transformed.with_key`.

        Like ranges, it belongs to the structure of this object.
        """
        return type(self)(self.module, self.call.with_key(key))

    def init_adapters(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        """Adapters for the module's weights: see `qpass.Transformed.init_adapters`."""
        return self.call.init_adapters(key, self.module, *args, **kwargs)

    def with_adapters(self, adapters: Mapping[str, Any]) -> Self:
        """The same with adapters: see `qpass.Transformed.with_adapters`.

        Like ranges, they belong to the structure of this object: where they are trained, make it
        inside of the function that is differentiated or jitted.
        """
        return type(self)(self.module, self.call.with_adapters(adapters))

    def merge(self, adapters: Mapping[str, Any], *args: Any, **kwargs: Any) -> Self:
        """The same with adapters merged into weights: see `qpass.Transformed.merge`."""
        return type(self)(self.call.merge(adapters, self.module, *args, **kwargs), self.call)

    def init_ranges(self, *args: Any, **kwargs: Any) -> Any:
        """Ranges of the module's weights that are learned: see `qpass.Transformed.init_ranges`."""
        return self.call.init_ranges(self.module, *args, **kwargs)

    def init_masks(self, *args: Any, **kwargs: Any) -> Any:
        """Masks for the module's sparse weights: see `qpass.Transformed.init_masks`."""
        return self.call.init_masks(self.module, *args, **kwargs)

    def update_masks(self, masks: Mapping[str, Any], step: Any, *args: Any, **kwargs: Any) -> Any:
        """The masks after a step: see `qpass.Transformed.update_masks`."""
        return self.call.update_masks(masks, step, self.module, *args, **kwargs)

    def with_masks(self, masks: Mapping[str, Any]) -> Self:
        """The same with masks: see `qpass.Transformed.with_masks`.

        Like ranges, they belong to the structure of this object.
        """
        return type(self)(self.module, self.call.with_masks(masks))

    def compare(self, *args: Any, **kwargs: Any) -> Any:
        """Error of every quantized site against float: see `qpass.Transformed.compare`."""
        return self.call.compare(self.module, *args, **kwargs)

    def nonfinite(self, *args: Any, **kwargs: Any) -> Any:
        """Where NaN and infinities enter: see `qpass.Transformed.nonfinite`."""
        return self.call.nonfinite(self.module, *args, **kwargs)
