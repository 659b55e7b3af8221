"""Writes what other libraries take a folder's weights for; run by their Python, without qpass.

    python foreign_values.py FORMAT FOLDER

GPTQModel 7.7.0 and compressed-tensors 0.20.0 with torch 2.13 (CPU) were used.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.torch import load_file


def compressed_tensors(tensors, config):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    given = QuantizationConfig.model_validate(config)
    for scheme in given.config_groups.values():
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        for layer in scheme.targets:
            state = {
                name.removeprefix(f"{layer}."): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{layer}.")
            }
            yield layer, compressor.decompress(state, scheme)["weight"]


def gptq(tensors, config):
    import re

    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    layers = sorted({name.rsplit(".", 1)[0] for name in tensors if name.endswith(".qweight")})
    for layer in layers:
        own = dict(config)
        for pattern, changes in config["dynamic"].items():
            if re.match(pattern.removeprefix("+:"), layer):
                own |= changes
        parts = {n.rsplit(".", 1)[1]: t for n, t in tensors.items() if n.startswith(f"{layer}.")}
        inputs, outputs = len(parts["g_idx"]), parts["scales"].shape[1]
        module = TorchLinear(
            bits=own["bits"],
            group_size=own["group_size"],
            sym=own["sym"],
            desc_act=False,
            in_features=inputs,
            out_features=outputs,
            bias=False,
        )
        for name, tensor in parts.items():
            setattr(module, name, tensor)
        module.scales = module.scales.half()
        module.qzero_format(format=2)
        module.post_init()
        yield layer, module.dequantize_weight().T


def main():
    form, folder = sys.argv[1], Path(sys.argv[2])
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    read = {"compressed-tensors": compressed_tensors, "gptq": gptq}[form]
    found = read(load_file(folder / "model.safetensors"), config)
    np.savez(folder / "values.npz", **{name: value.float().numpy() for name, value in found})


if __name__ == "__main__":
    main()
