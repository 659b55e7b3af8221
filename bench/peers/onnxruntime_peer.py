"""ONNX Runtime: dynamic quantization by its own tools, run by its CPU provider."""

# pyright: reportMissingImports=false
from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from protocol import THREADS, Library, Loaded, Variant, serve  # isort: skip (goes first)

import numpy as np
import onnx
import onnxruntime
import products
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

VARIANTS = {
    "float32": Variant("as written, all graph optimizations", units="float32"),
    "int8 dynamic": Variant("quantize_dynamic, per_channel=True, QInt8; activations per tensor"),
    "int4 g32": Variant("MatMulNBitsQuantizer, symmetric blocks of 32, accuracy_level=4"),
}
FLOAT = onnx.TensorProto.FLOAT


def load(case: Mapping[str, Any], variant: str) -> Loaded:
    """Quantize a case's graph and open a session on it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        inputs, error_of = write(case, path)
        path = QUANTIZE[variant](path)
        session = onnxruntime.InferenceSession(path, options(), ["CPUExecutionProvider"])
        size = sum(
            numpy_helper.to_array(w, folder).nbytes for w in onnx.load(path).graph.initializer
        )
    names = [entry.name for entry in session.get_inputs()]
    feed = dict(zip(names, inputs, strict=True))
    call = lambda: session.run(None, feed)[0]  # noqa: E731
    return Loaded(call, size, error_of(call()))


def options() -> Any:
    """Our threads, which spin while a call runs and stop when it ends."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def write(
    case: Mapping[str, Any], path: Path
) -> tuple[tuple[np.ndarray, ...], Callable[[np.ndarray], float]]:
    """A case's float graph as a file; its inputs, and a result's distance from float64."""
    if case["kind"] != "product":
        return export(case, path)
    weight, x = products.draw(case)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "product",
        [value("x", FLOAT, x.shape)],
        [value("y", FLOAT, (*x.shape[:-1], weight.shape[-1]))],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return (x,), lambda result: products.distance(weight, x, result)


def export(
    case: Mapping[str, Any], path: Path
) -> tuple[tuple[np.ndarray, ...], Callable[[np.ndarray], float]]:
    """Layers of a transformer, written by PyTorch."""
    import torch
    import torch_blocks

    model, inputs = torch_blocks.make(case)
    with torch.no_grad():
        torch.onnx.export(model, inputs, path, dynamo=True, external_data=False, verbose=False)
        exact = model.double()(*(x.double() for x in inputs)).numpy()
    arrays = tuple(x.numpy() for x in inputs)
    return arrays, lambda result: products.relative(result, exact)


def dynamic(path: Path) -> Path:
    """Weights int8 per channel, activations as they come."""
    target = path.with_stem("dynamic")
    quantize_dynamic(path, target, per_channel=True, weight_type=QuantType.QInt8)
    return target


def four_bits(path: Path) -> Path:
    """Weights 4 bits in blocks of 32, multiplied as integers."""
    target = path.with_stem("four_bits")
    quantizer = MatMulNBitsQuantizer(
        onnx.load(path), block_size=32, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    onnx.save(quantizer.model.model, target)
    return target


QUANTIZE: Mapping[str, Callable[[Path], Path]] = {
    "float32": lambda path: path,
    "int8 dynamic": dynamic,
    "int4 g32": four_bits,
}

if __name__ == "__main__":
    serve(Library("onnxruntime", onnxruntime.__version__, VARIANTS, load))
