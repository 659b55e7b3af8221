"""What a checkpoint of another library holds: leaves that are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qpass.checkpoint.formats.tensors import Tensors
from qpass.errors import CheckpointError
from qpass.numerics import QTensor
from qpass.suggest import did_you_mean

type Value = QTensor | jax.Array


class Decoded(NamedTuple):
    """A leaf as it was decoded.

    Attributes:
        value: a QTensor where codes were kept; an array where the file holds floats, or where no
            QTensor can hold what it means.
        reason: why codes were not kept; "" where they were, or where there are none.
    """

    value: Value
    reason: str = ""


@dataclass(frozen=True)
class Leaf:
    """A parameter in a checkpoint.

    Attributes:
        shape: of the float array that it stands for, `[out, in]` where it is a linear layer's.
        where: its name and file, for errors.
        decode: reads it.
    """

    shape: tuple[int, ...]
    where: str
    decode: Callable[[], Decoded]


@dataclass(frozen=True)
class Found:
    """Quantized weights that were found among tensors.

    Attributes:
        leaves: by name.
        used: names of the tensors that are parts of them, or that say nothing of parameters.
        left: names of tensors that no parameter needs, such as scales of activations.
    """

    leaves: dict[str, Leaf] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)

    def add(self, layer: str, leaf: Leaf, tensors: Tensors, parts: Iterable[str]) -> None:
        """Take the weight of a layer, which is made of those parts."""
        self.leaves[f"{layer}.weight"] = leaf
        self.used.update(name for part in parts if (name := f"{layer}.{part}") in tensors)


def layers_with(tensors: Tensors, part: str) -> list[str]:
    """Names of the layers that have such a tensor."""
    return [name.removesuffix(f".{part}") for name in tensors if name.endswith(f".{part}")]


def floats(tensors: Tensors, names: Iterable[str]) -> dict[str, Leaf]:
    """Tensors that are parameters as they are."""

    def leaf(name: str) -> Leaf:
        stored = tensors.at(name)
        return Leaf(stored.shape, tensors.where(name), lambda: Decoded(jnp.asarray(stored.read())))

    return {name: leaf(name) for name in names}


@dataclass(frozen=True)
class Imported(Mapping[str, Value]):
    """A checkpoint of another library: parameters by name, decoded when they are asked for.

    Quantized weights are QTensors that hold the codes of the file; `decode` also tells why one that
    is quantized in the file is not. A linear layer's weight is `[out, in]` and is called
    `<layer>.weight`, whatever the file calls its parts.

    Attributes:
        format: the name of the format.
        leaves: by name.
        left: names of tensors in the file that no parameter needs, such as scales of activations.
    """

    format: str
    leaves: Mapping[str, Leaf]
    left: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Value:
        return self.decode(name).value

    def __iter__(self) -> Iterator[str]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)

    def __contains__(self, name: object) -> bool:
        return name in self.leaves

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of that parameter, without reading it.

        Raises:
            CheckpointError: there is none of that name.
        """
        return self._leaf(name).shape

    def decode(self, name: str) -> Decoded:
        """That parameter, with the reason where its codes were not kept.

        Raises:
            CheckpointError: there is none of that name, or its tensors contradict each other.
        """
        return self._leaf(name).decode()

    def where(self, name: str) -> str:
        """The name and the file of that parameter."""
        return self._leaf(name).where

    def _leaf(self, name: str) -> Leaf:
        if name not in self.leaves:
            meant = did_you_mean(name, self.leaves)
            raise CheckpointError(f"Name a parameter of the checkpoint; {name!r} is none: {meant}")
        return self.leaves[name]
