"""Writes tests/data/checkpoints.npz: layers as other libraries pack them, and their values.

    python tests/data/make_checkpoints.py

Made with torch 2.13 (CPU), compressed-tensors 0.20.0, autoawq 0.2.9, bitsandbytes 0.50.2. Rows of
whole words (`whole`) are made with compressed-tensors 0.14.0, whose folder OLD names if it is to be
made again. Bits of bf16, fp8 and e8m0 are kept as unsigned integers, with the dtype in the key:
`<case>/<tensor>:<dtype>`.
"""

import importlib
import math
import os
import sys
import types
from pathlib import Path

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

HERE = Path(__file__).parent
OUTPUTS, INPUTS = 40, 96
VIEWS = {
    torch.bfloat16: ("bfloat16", torch.uint16),
    torch.float8_e4m3fn: ("float8_e4m3fn", torch.uint8),
}


def weight(seed, shape=(OUTPUTS, INPUTS), dtype=torch.bfloat16):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 8).to(dtype)


def put(arrays, case, tensors):
    for name, tensor in tensors.items():
        kind, view = VIEWS.get(tensor.dtype, (str(tensor.dtype).removeprefix("torch."), None))
        array = tensor.detach().contiguous()
        arrays[f"{case}/{name}:{kind}"] = (array.view(view) if view else array).numpy()


def scales(w, args, rows, columns):
    """Scales and zero points of blocks, from the largest magnitude or from both ends."""
    n, k = w.shape
    padded = torch.zeros(-(-n // rows) * rows, -(-k // columns) * columns)
    padded[:n, :k] = w.float()
    blocks = padded.reshape(padded.shape[0] // rows, rows, -1, columns)
    low, high = blocks.amin((1, 3)).clamp(max=0), blocks.amax((1, 3)).clamp(min=0)
    greatest = {("float", 8): 448, ("float", 4): 6}.get((args.type, args.num_bits))
    if greatest:
        return torch.maximum(-low, high) / greatest, None
    half = 1 << (args.num_bits - 1)
    if args.symmetric:
        return torch.maximum(-low, high) / (half - 0.5), None
    scale = (high - low) / (2 * half - 1)
    return scale, torch.clamp(torch.round(-half - low / scale), -half, half - 1).to(torch.int8)


def compressed(arrays, case, form, block, seed, acts=None, **options):
    args = QuantizationArgs(**options)
    w = weight(seed)
    scale, zero = scales(w, args, *block)
    state = {"weight": w, "weight_scale": scale.to(torch.bfloat16)}
    if zero is not None:
        state["weight_zero_point"] = zero
    scheme = QuantizationScheme(targets=["Linear"], weights=args, input_activations=acts)
    finish(arrays, case, form, state, scheme)


def finish(arrays, case, form, state, scheme):
    compressor = BaseCompressor.get_value_from_registry(form)
    packed = compressor.compress(state, scheme)
    put(arrays, case, packed)
    put(arrays, case, {"value": compressor.decompress(dict(packed), scheme)["weight"]})


def compressed_integers(arrays):
    for bits in (2, 3, 4, 5, 6, 7, 8):
        for symmetric in (True, False):
            case = f"pack{bits}.{'sym' if symmetric else 'asym'}"
            group = {"strategy": "group", "group_size": 32}
            options = {"num_bits": bits, "symmetric": symmetric, **group}
            compressed(arrays, case, "pack-quantized", (1, 32), bits, **options)
    channel = {"num_bits": 4, "strategy": "channel"}
    compressed(arrays, "pack4.channel", "pack-quantized", (1, INPUTS), 11, **channel)
    dynamic = QuantizationArgs(num_bits=8, dynamic=True, strategy="token")
    eight = {"num_bits": 8, "strategy": "channel", "acts": dynamic}
    compressed(arrays, "int8.channel", "int-quantized", (1, INPUTS), 12, **eight)
    tensor = {"num_bits": 8, "strategy": "tensor", "acts": dynamic}
    compressed(arrays, "int8.tensor", "int-quantized", (OUTPUTS, INPUTS), 13, **tensor)
    eight["symmetric"] = False
    compressed(arrays, "int8.asym", "int-quantized", (1, INPUTS), 14, **eight)


def compressed_floats(arrays):
    fp8 = {"num_bits": 8, "type": "float"}
    acts = QuantizationArgs(num_bits=8, type="float", dynamic=True, strategy="token")
    for strategy, block in {"channel": (1, INPUTS), "tensor": (OUTPUTS, INPUTS)}.items():
        given = {**fp8, "strategy": strategy, "acts": acts}
        compressed(arrays, f"fp8.{strategy}", "float-quantized", block, 21, **given)
    given = {**fp8, "strategy": "block", "block_structure": [16, 32], "acts": acts}
    compressed(arrays, "fp8.block", "float-quantized", (16, 32), 22, **given)
    nvfp4(arrays)
    for case, form, bits in (("mxfp4", "mxfp4-pack-quantized", 4), ("mxfp8", "mxfp8-quantized", 8)):
        mx(arrays, case, form, bits)


def nvfp4(arrays):
    args = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)
    w = weight(23)
    total = (448 * 6 / w.float().abs().max()).reshape(1)
    scale = (w.float().reshape(OUTPUTS, -1, 16).abs().amax(-1) / 6 * total).to(torch.float8_e4m3fn)
    state = {"weight": w, "weight_scale": scale.float(), "weight_global_scale": total}
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    finish(arrays, "nvfp4", "nvfp4-pack-quantized", state, scheme)


def mx(arrays, case, form, bits):
    args = QuantizationArgs(
        num_bits=bits, type="float", strategy="group", group_size=32, scale_dtype=torch.uint8
    )
    w = weight(24 + bits)
    amax = w.float().reshape(OUTPUTS, -1, 32).abs().amax(-1)
    scale = 2.0 ** torch.ceil(torch.log2(amax / (6 if bits == 4 else 448)))
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    finish(arrays, case, form, {"weight": w, "weight_scale": scale}, scheme)


def whole_words(arrays, folder):
    """Older packing, of the codes that the newer one has."""
    path = Path(folder) / "compressed_tensors/compressors/quantized_compressors/pack_quantized.py"
    source, old = path.read_text(), {"math": math, "torch": torch}
    start, end = source.index("def pack_to_int32"), source.index("def unpack_from_int32")
    exec("from typing import *\n" + source[start:end], old)
    generator = torch.Generator().manual_seed(5)
    for bits in (3, 5, 6, 7):
        half = 1 << (bits - 1)
        codes = torch.randint(-half, half, (4, 320), generator=generator, dtype=torch.int8)
        put(arrays, f"whole{bits}", {"codes": codes, "words": old["pack_to_int32"](codes, bits)})


def awq(arrays):
    """The layer alone: `awq` itself imports models that newer transformers do not have."""
    root = next(path for folder in sys.path if (path := Path(folder) / "awq").is_dir())
    for name in ("awq", "awq.modules", "awq.modules.linear", "awq.utils"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    gemm = importlib.import_module("awq.modules.linear.gemm")
    packing = importlib.import_module("awq.utils.packing_utils")
    linear = torch.nn.Linear(INPUTS, 64, bias=False)
    linear.weight.data = weight(31, (64, INPUTS), torch.float16)
    args = QuantizationArgs(num_bits=4, symmetric=False)
    scale, zero = scales(linear.weight.data, args, 1, 32)
    given = scale.half().t().contiguous(), (zero.to(torch.int32) + 8).t().contiguous()
    layer = gemm.WQLinear_GEMM.from_linear(linear, 4, 32, scales=given[0], zeros=given[1])
    put(arrays, "awq", {k: getattr(layer, k) for k in ("qweight", "qzeros", "scales")})
    value = packing.dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, 32)
    put(arrays, "awq", {"value": value.t()})


def nf4(arrays):
    """Values of the implementation for all devices: that for CPU starts a block in each row."""
    from bitsandbytes import functional
    from bitsandbytes.backends.default import ops

    for case, shape, nested in (
        ("nf4", (32, 128), False),
        ("nf4.nested", (32, 640), True),
        ("nf4.straddling", (32, 80), False),
    ):
        w = weight(41, shape)
        packed, state = functional.quantize_4bit(
            w, blocksize=64, compress_statistics=nested, quant_type="nf4"
        )
        parts = {f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}
        put(arrays, case, {"weight": packed} | parts)
        absmax = state.absmax
        if nested:
            absmax = functional.dequantize_blockwise(absmax, state.state2) + state.offset
        given = packed.reshape(-1), absmax.float(), state.code, 64, shape, torch.bfloat16
        put(arrays, case, {"value": ops._dequantize_4bit_compute(*given)})
        if shape[1] % 64 == 0:
            on_cpu = functional.dequantize_4bit(packed, state)
            assert torch.equal(on_cpu, ops._dequantize_4bit_compute(*given))


def main():
    arrays = {}
    compressed_integers(arrays)
    compressed_floats(arrays)
    whole_words(arrays, os.environ["OLD"])
    nf4(arrays)
    awq(arrays)
    np.savez_compressed(HERE / "checkpoints.npz", **arrays)
    for key, array in arrays.items():
        print(key, array.shape)


if __name__ == "__main__":
    main()
