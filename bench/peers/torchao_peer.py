"""torchao on PyTorch for CPU: its quantized linear layers, compiled by inductor."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from protocol import THREADS, Library, Loaded, Unsupported, Variant, serve  # isort: skip (goes first)

import products
import torch
import torch_blocks
import torchao
from torch import Tensor, nn
from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
from torchao.quantization import (
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    quantize_,
)

COMPILED = "torch.compile, weights frozen"
VARIANTS = {
    "float32": Variant(COMPILED, "float32"),
    "int8 dynamic": Variant(f"Int8DynamicActivationInt8WeightConfig, {COMPILED}"),
    "int8 weight-only": Variant(f"Int8WeightOnlyConfig, {COMPILED}", "float32"),
    "int4 weight-only": Variant(
        f"PrototypeInt4WeightOnlyConfig(group_size=32), {COMPILED}", "float32"
    ),
}
CONFIGS: Mapping[str, Callable[[], Any]] = {
    "int8 dynamic": Int8DynamicActivationInt8WeightConfig,
    "int8 weight-only": Int8WeightOnlyConfig,
    "int4 weight-only": lambda: PrototypeInt4WeightOnlyConfig(group_size=32),
}


def load(case: Mapping[str, Any], variant: str) -> Loaded:
    """Quantize and compile a case's layers."""
    model, inputs, error_of = prepared(case)
    if variant in CONFIGS:
        quantize_(model, CONFIGS[variant]())
    size = sum(map(stored, model.parameters()))
    torch.compiler.reset()
    compiled = torch.compile(model)

    def call() -> Tensor:
        with torch.no_grad():
            return compiled(*inputs)

    return Loaded(call, size, error_of(call()))


def prepared(
    case: Mapping[str, Any],
) -> tuple[nn.Module, tuple[Tensor, ...], Callable[[Tensor], float]]:
    """A float module, what it is called on, and a result's distance from float64."""
    if case["kind"] != "product":
        model, inputs = torch_blocks.make(case)
        exact = in_float64(model, inputs)
        return model, inputs, lambda result: products.relative(result.double().numpy(), exact)
    if case["experts"] > 1:
        raise Unsupported("torchao quantizes linear layers, no stacks of experts.")
    weight, x = products.draw(case)
    linear = nn.Linear(case["k"], case["n"], bias=False, device="meta")
    linear.weight = nn.Parameter(torch.from_numpy(weight.T.copy()), requires_grad=False)
    distance = lambda result: products.distance(weight, x, result.numpy())  # noqa: E731
    return nn.Sequential(linear).eval(), (torch.from_numpy(x),), distance


def in_float64(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """The same layers on the same numbers, in float64."""
    with torch.no_grad():
        exact = model.double()(*(x.double() for x in inputs)).numpy()
    model.float()
    return exact


def stored(tensor: Tensor) -> int:
    """Bytes of a tensor, or of the codes and scales that a quantized one is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.numel() * tensor.element_size()
    return sum(stored(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    torch._inductor.config.freezing = True
    serve(Library("torchao", f"{torchao.__version__} on torch {torch.__version__}", VARIANTS, load))
