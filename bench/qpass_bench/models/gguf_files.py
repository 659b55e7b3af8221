"""The demo's weights as GGUF files, so that other frameworks run the same model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quantize

from qpass_bench.models import smollm
from qpass_bench.models.decoder import DecoderConfig

F32, Q8_0, Q4_1 = (GGMLQuantizationType[name] for name in ("F32", "Q8_0", "Q4_1"))

TYPES: Mapping[str, Callable[[str], GGMLQuantizationType]] = {
    "F32": lambda name: F32,
    "Q8_0": lambda name: Q8_0,
    "Q4_1": lambda name: Q8_0 if name == "token_embd.weight" else Q4_1,
}
"""Files by name, and the type of each matrix in them; vectors are always float32."""

WRITTEN_ANEW = ("GGUF.", "general.architecture", "general.file_type")
"""Metadata that a writer writes itself or that the new types make wrong."""


def write_all(published: Path, folder: Path, seed: int = 0) -> Path:
    """``F32.gguf``, ``Q8_0.gguf`` and ``Q4_1.gguf`` of the permuted model; gives the first.

    Files that are already there stay.
    """
    missing = [name for name in TYPES if not (folder / f"{name}.gguf").exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        model = smollm.load(published)
        params = smollm.permute(model.params, model.config, seed)
        tensors = dict(to_tensors(params, model.config))
        for name in missing:
            write(folder / f"{name}.gguf", GGUFReader(published), tensors, TYPES[name])
    return folder / "F32.gguf"


def write(
    path: Path,
    template: GGUFReader,
    tensors: Mapping[str, np.ndarray],
    type_of: Callable[[str], GGMLQuantizationType],
) -> None:
    """One file: the metadata of the template, and tensors in the types asked for."""
    scratch = path.with_suffix(".new")
    writer = GGUFWriter(scratch, template.fields["general.architecture"].contents())
    copy_metadata(template, writer)
    for name, tensor in tensors.items():
        kind = type_of(name) if tensor.ndim > 1 else F32
        writer.add_tensor(name, quantize(np.ascontiguousarray(tensor), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    scratch.replace(path)


def copy_metadata(source: GGUFReader, target: GGUFWriter) -> None:
    """Sizes and vocabulary."""
    for name, field in source.fields.items():
        if not name.startswith(WRITTEN_ANEW):
            is_array = field.types[0] == GGUFValueType.ARRAY
            items = field.types[-1] if is_array else None
            target.add_key_value(name, field.contents(), field.types[0], items)


def to_tensors(params: dict, config: DecoderConfig) -> Iterator[tuple[str, np.ndarray]]:
    """The inverse of ``smollm.to_tree``: GGUF's names and tensors ``[out, in]``."""
    layers = params["layers"]
    for i in range(config.layers):
        yield f"blk.{i}.attn_norm.weight", layers["attention_norm"]["scale"][i]
        yield f"blk.{i}.ffn_norm.weight", layers["mlp_norm"]["scale"][i]
        for name, kernel in layers["mlp"].items():
            yield f"blk.{i}.ffn_{name}.weight", kernel["kernel"][i].T
        for name, matrix in attention(layers["attention"], config, i):
            yield f"blk.{i}.attn_{name}.weight", matrix
    yield "token_embd.weight", params["embed"]["embedding"]
    yield "output_norm.weight", params["norm"]["scale"]


def attention(tree: dict, config: DecoderConfig, i: int) -> Iterator[tuple[str, np.ndarray]]:
    """The four matrices of a layer, rotary pairs side by side."""
    flat = {name: tree[name]["kernel"][i].reshape(config.width, -1).T for name in "qkv"}
    yield "q", side_by_side(flat["q"], config.heads)
    yield "k", side_by_side(flat["k"], config.kv_heads)
    yield "v", flat["v"]
    yield "output", tree["o"]["kernel"][i].reshape(-1, config.width).T


def side_by_side(weight: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of ``smollm.half_split``."""
    out, width = weight.shape
    halves = weight.reshape(heads, 2, out // heads // 2, width)
    return halves.transpose(0, 2, 1, 3).reshape(out, width)
