"""The configuration of compressed-tensors: which layers have weights of how many bits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qpass.errors import CheckpointError

_STRATEGIES = ("tensor", "channel", "group", "tensor_group", "block")


@dataclass(frozen=True)
class Weights:
    """What is said of the weights of a group of layers.

    Attributes:
        bits: of a code.
        strategy: "tensor", "channel", "group", "tensor_group" or "block".
        group: input features that share a scale, of the strategies with groups.
        rows_columns: of a block, of the strategy with blocks.
    """

    bits: int
    strategy: str
    group: int = 0
    rows_columns: tuple[int, int] = (0, 0)

    def block(self, shape: tuple[int, int]) -> tuple[int, int]:
        """How many neighbours share a scale along `out` and `in`."""
        outputs, inputs = (max(n, 1) for n in shape)
        if self.strategy == "tensor":
            return outputs, inputs
        if self.strategy == "channel":
            return 1, inputs
        if self.strategy == "block":
            return min(self.rows_columns[0], outputs), min(self.rows_columns[1], inputs)
        return 1, min(self.group, inputs)


@dataclass(frozen=True)
class Group:
    """Layers with weights alike.

    Attributes:
        targets: names, `re:` and a pattern, or classes such as "Linear".
        weights: what is said of them.
    """

    targets: tuple[str, ...]
    weights: Weights

    def names(self, layer: str) -> bool:
        """Whether a target names the layer itself."""
        return any(_names(target, layer) for target in self.targets)


def groups(config: Mapping[str, Any], where: str) -> list[Group]:
    """The groups of layers in a `quantization_config`.

    Raises:
        CheckpointError: there are none with weights, or one is not understood.
    """
    _check_plain(config, where)
    given = config.get("config_groups")
    if not isinstance(given, Mapping):
        raise CheckpointError(f"Give a configuration with config_groups; {where} has {given!r}.")
    found = [
        Group(tuple(entry.get("targets") or ()), _weights(entry["weights"], f"{name} in {where}"))
        for name, entry in given.items()
        if isinstance(entry, Mapping) and entry.get("weights")
    ]
    if not found:
        raise CheckpointError(f"Give a configuration with quantized weights; {where} has none.")
    return found


def of_layer(given: list[Group], layer: str, where: str) -> Weights:
    """What holds for a layer: the group that names it, else the one that targets a class.

    Raises:
        CheckpointError: no group or several different ones are left.
    """
    named = [group for group in given if group.names(layer)]
    chosen = named or [group for group in given if any(map(_is_class, group.targets))]
    if len({group.weights for group in chosen}) != 1:
        raise CheckpointError(
            f"Name {layer} in one group of config_groups in {where}: {len(chosen)} fit it, and "
            "which class it is of does not stand in the file."
        )
    return chosen[0].weights


def _check_plain(config: Mapping[str, Any], where: str) -> None:
    """Refuse what changes the function or the layout of all tensors."""
    sparse = (config.get("sparsity_config") or {}).get("format") or "dense"
    if sparse != "dense":
        raise CheckpointError(f"Give a checkpoint without sparsity; {where} says {sparse!r}.")
    if (config.get("transform_config") or {}).get("config_groups"):
        raise CheckpointError(
            f"Give a checkpoint whose weights are not turned; {where} has a transform_config, and "
            "activations would have to be turned as well."
        )


def _weights(given: Mapping[str, Any], where: str) -> Weights:
    strategy, group, block = (given.get(k) for k in ("strategy", "group_size", "block_structure"))
    bits = given.get("num_bits", 8)
    if strategy is None:
        strategy = "tensor" if group is None else "channel" if group == -1 else "group"
    grouped = strategy not in ("group", "tensor_group") or _is_size(group)
    if strategy not in _STRATEGIES or not grouped or bits not in range(1, 9):
        raise CheckpointError(
            f"Give weights of 1 to 8 bits with one of the strategies {', '.join(_STRATEGIES)}; "
            f"{where} says {dict(given)}."
        )
    if strategy != "block":
        return Weights(bits, strategy, group or 0)
    return Weights(bits, strategy, 0, _rows_columns(block, where))


def _rows_columns(block: Any, where: str) -> tuple[int, int]:
    sizes = block.split("x") if isinstance(block, str) else block
    try:
        rows, columns = (int(n) for n in sizes)
    except (TypeError, ValueError):
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise CheckpointError(
            f"Give a block_structure of rows and columns, as [128, 128]; {where} says {block!r}."
        )
    return rows, columns


def _is_size(n: Any) -> bool:
    return isinstance(n, int) and n > 0


def _names(target: str, layer: str) -> bool:
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), layer) is not None
    return target == layer or layer.endswith(f".{target}")


def _is_class(target: str) -> bool:
    return not target.startswith("re:") and "." not in target and target[:1].isupper()
