"""Writes the three files of the current quantizer; needs torch 2.13 and torchao 0.18.

    python tests/data/torchao/make_intx.py

qpass does not depend on either, and nothing imports this file.
"""

from pathlib import Path

import numpy as np
import torch
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup, quantize_
from torchao.quantization.qat import QATConfig
from torchao.quantization.qat.fake_quantize_config import IntxFakeQuantizeConfig
from torchao.quantization.qat.fake_quantizer import IntxFakeQuantizer
from torchao.quantization.quant_primitives import (
    MappingType,
    choose_qparams_affine,
    dequantize_affine,
    quantize_affine,
)

HERE = Path(__file__).parent
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
WAYS = {"sym": MappingType.SYMMETRIC, "asym": MappingType.ASYMMETRIC}
CASES = ("randn", "zero_groups", "ties", "magnitudes", "const", "outliers")


def load(name):
    arrays = np.load(HERE / f"{name}.npz")
    return {key: tensor(arrays[key]) for key in arrays.files}


def tensor(array):
    found = torch.from_numpy(array)
    return found.view(torch.bfloat16) if array.dtype == np.uint16 else found


def array(found):
    return (found.view(torch.uint16) if found.dtype == torch.bfloat16 else found).numpy()


def quantized(x, way, block, bits=8, **options):
    """Scales, zero points, codes and values back."""
    least, greatest = -(1 << bits - 1), (1 << bits - 1) - 1
    scale, zero = choose_qparams_affine(
        x, way, block, torch.int8, least, greatest, zero_point_dtype=torch.int8, **options
    )
    codes = quantize_affine(x, block, scale, zero, torch.int8, least, greatest)
    values = dequantize_affine(
        codes, block, scale, zero, torch.int8, least, greatest, output_dtype=x.dtype
    )
    return scale, zero, codes, values


def activations():
    given = load("act_int8_per_token_asym")
    fake = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False, scale_precision=None)
    for key in [k for k in given if k.endswith(".x") and "overflow" not in k]:
        x, name = given[key], key.removesuffix(".x")
        block = [1] * (x.ndim - 1) + [x.shape[-1]]
        scale, zero, codes, values = quantized(x, WAYS["asym"], block)
        assert torch.equal(scale.float(), given[f"{name}.epsdef.scale"])
        assert torch.equal(zero.float(), given[f"{name}.epsdef.zp"])
        assert torch.equal(IntxFakeQuantizer(fake)(x), values)
        yield f"{name}.q", codes
        yield f"{name}.dq", values


def weights():
    given = load("w_int4_group_sym")
    for name in (f"{case}.{dtype}" for case in CASES for dtype in DTYPES):
        for bits in (2, 3, 4, 8):
            for way in WAYS:
                yield from group64(given[f"{name}.w"][:4], f"{name}.int{bits}.{way}", bits, way)


def group64(w, name, bits, way):
    wide = {"scale_dtype": torch.float32, "eps": 2.0**-23 if way == "asym" else None}
    for kind, options in (("sT", {}), ("sf32", wide)):
        scale, zero, codes, values = quantized(w, WAYS[way], [1, 64], bits, **options)
        yield f"{name}.{kind}.scale", scale.float()
        yield f"{name}.{kind}.zp", zero
        yield f"{name}.{kind}.q", codes
        if bits == 4:
            yield f"{name}.{kind}.dq", values


def products():
    given = load("linear_8da4w")
    for key in [k for k in given if k.endswith(".w_q")]:
        seed, dtype, group, _ = key.split(".")
        x, w = given[f"{seed}.{dtype}.x"], given[f"{seed}.{dtype}.w"]
        layer = torch.nn.Linear(*reversed(w.shape), bias=False, dtype=DTYPES[dtype])
        layer.weight = torch.nn.Parameter(w.clone())
        model = torch.nn.Sequential(layer)
        config = Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4, weight_granularity=PerGroup(int(group[1:]))
        )
        quantize_(model, QATConfig(config, step="prepare"))
        prepared = model(x)
        quantize_(model, QATConfig(config, step="convert"))
        assert torch.equal(model(x), prepared)
        assert torch.equal(model[0].weight.qdata, given[key])
        yield f"{seed}.{dtype}.{group}.out", prepared.detach()


if __name__ == "__main__":
    makers = {"act_intx": activations, "w_intx_group64": weights, "linear_intx": products}
    for name, make in makers.items():
        arrays = {key: array(found) for key, found in make()}
        np.savez_compressed(HERE / f"{name}.npz", **arrays)
