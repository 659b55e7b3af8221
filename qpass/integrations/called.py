"""What a transformed model object does, whichever framework its class is of."""

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

    def compare(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Errors of a call."""
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

    def compare(self, *args: Any, **kwargs: Any) -> Any:
        """Error of every quantized site against float: see `qpass.Transformed.compare`."""
        return self.call.compare(self.module, *args, **kwargs)
