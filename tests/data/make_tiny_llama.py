"""Writes tests/data/tiny_llama: a decoder of two layers, quantized and saved by other libraries.

    python tests/data/make_tiny_llama.py

Made with torch 2.13 (CPU), transformers 5.23.0 and compressed-tensors 0.20.0: random weights, int4
asymmetric in groups of 32, int8 per channel for `down_proj`; logits of the weights that
compressed-tensors itself dequantizes.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationStatus,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent / "tiny_llama"
SIZES = {
    "vocab_size": 48,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
FOUR = {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32}
EIGHT = {"num_bits": 8, "symmetric": True, "strategy": "channel"}


def quantized():
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).float().eval()
    for name, parameter in model.named_parameters():
        scale = 1 if "norm" in name else 0
        parameter.data = scale + torch.randn_like(parameter) * 0.15
    groups = {
        "group_0": {"targets": ["Linear"], "weights": FOUR, "format": "pack-quantized"},
        "group_1": {"targets": ["re:.*down_proj"], "weights": EIGHT, "format": "pack-quantized"},
    }
    config = QuantizationConfig(
        config_groups=groups,
        ignore=["lm_head"],
        format="pack-quantized",
        quantization_status=QuantizationStatus.FROZEN,
    )
    apply_quantization_config(model, config, show_progress=False)
    for module in model.modules():
        if scheme := getattr(module, "quantization_scheme", None):
            args = scheme.weights
            size = args.group_size if args.strategy == "group" else module.weight.shape[1]
            blocks = module.weight.reshape(len(module.weight), -1, size)
            scale, zero = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args)
            module.weight_scale.data = scale
            module.weight_zero_point.data = zero.to(module.weight_zero_point.dtype)
    return model


def main():
    model = quantized()
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    shutil.rmtree(OUT, ignore_errors=True)
    model.save_pretrained(OUT)
    compressor.update_config(OUT)
    (OUT / "generation_config.json").unlink(missing_ok=True)
    compressor.decompress_model(model)
    for module in model.modules():
        if hasattr(module, "quantization_scheme"):
            del module.quantization_scheme
            module.__dict__.pop("forward", None)
    ids = torch.randint(0, SIZES["vocab_size"], (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(ids).logits
    np.savez_compressed(OUT / "logits.npz", ids=ids.numpy(), logits=logits.numpy())
    print(logits.std(), {k: (v.shape, v.dtype) for k, v in model.state_dict().items()})


if __name__ == "__main__":
    main()
