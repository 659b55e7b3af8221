"""GPTQ version 2 out of rows of codes: `qweight`, `qzeros`, `scales`, `g_idx`, and its settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from qpass.checkpoint.formats.bits import WORD
from qpass.checkpoint.formats.gptq import BITS, pack_inputs, pack_outputs
from qpass.checkpoint.formats.rows import Rows
from qpass.errors import CheckpointError


def tensors(weight: Rows, scale: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of a layer.

    Args:
        weight: its weight.
        scale: its scales `[out, groups]`, in the dtype that they are written in.

    Raises:
        CheckpointError: another type, blocks over outputs, or sizes that do not fill words.
    """
    _check(weight)
    bits, half = weight.bits, int(-weight.qtype.qmin)
    zero = np.zeros(scale.shape, np.int8) if weight.zero is None else weight.zero
    inputs = np.arange(weight.codes.shape[1], dtype=np.int32)
    return {
        "qweight": pack_inputs(_unsigned(weight.codes, half), bits),
        "qzeros": pack_outputs(np.ascontiguousarray(_unsigned(zero, half).T), bits),
        "scales": scale.T,
        "g_idx": inputs // weight.block[1],
    }


def config(layers: Mapping[str, Rows], ignored: list[str]) -> dict[str, Any]:
    """The `quantization_config`: what most layers have, and under `dynamic` what others have."""
    each = {name: _settings(weight) for name, weight in layers.items()}
    if not each:
        raise CheckpointError("Give quantized weights to write; there are none.")
    settings = list(each.values())
    most = max(settings, key=settings.count)
    dynamic = {f"-:^{re.escape(name)}$": {} for name in ignored}
    dynamic |= {f"+:^{re.escape(n)}$": own for n, own in each.items() if own != most}
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq_v2",
        **most,
        "desc_act": False,
        "lm_head": "lm_head" in layers,
        "dynamic": dynamic,
        "meta": {"quantizer": ["qpass"]},
    }


def _settings(weight: Rows) -> dict[str, Any]:
    whole = weight.block[1] == weight.codes.shape[1]
    group = -1 if whole else weight.block[1]
    return {"bits": weight.bits, "group_size": group, "sym": weight.zero is None}


def _check(weight: Rows) -> None:
    outputs, inputs = weight.codes.shape
    is_known = weight.qtype.kind == "int" and weight.qtype.qmin < 0 and weight.bits in BITS
    if not is_known or weight.block[0] != 1 or weight.strategy not in ("group", "channel"):
        raise CheckpointError(
            f"Write {weight.name} as int2, int3, int4 or int8 with scales for each output, in "
            f"groups or not; it is {weight.qtype} with scales for blocks of {weight.block}."
        )
    if any(n * weight.bits % WORD for n in (outputs, inputs)):
        raise CheckpointError(
            f"Write {weight.name} in another format: {outputs} outputs and {inputs} inputs of "
            f"{weight.bits} bits do not fill words of {WORD} bits."
        )


def _unsigned(codes: np.ndarray, half: int) -> np.ndarray:
    return (codes.astype(np.int16) + half).astype(np.uint8)
