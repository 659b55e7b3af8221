"""A leaf that is quantized read by read: what each read gives, put where it was read from."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass.errors import QuantizeError
from qpass.graph.dataflow import Key
from qpass.graph.provenance import Origin
from qpass.graph.replay import replayed
from qpass.methods.operand import Solved, operand_blocks
from qpass.numerics import QTensor, block_sizes
from qpass.numerics.axes import count_blocks
from qpass.numerics.quantize import find_range
from qpass.ops.weights import Storage, encode_within, unweighted
from qpass.plan import Decision

# By what part of all values they may move when they are encoded again, as by a narrow dtype.
_OFF = 0.01


class Placed:
    """The values that codes of one leaf stand for, and what its scales cover, on the host.

    What no read has reached is rounded by itself.

    Args:
        leaf: the float leaf.
        storage: how it is stored.
        path: of the leaf, for messages.
    """

    def __init__(self, leaf: jax.Array, storage: Storage, path: str) -> None:
        self.storage, self.path, self.dtype = storage, path, leaf.dtype
        quantizer = unweighted(storage).quantizer
        self.blocks = block_sizes(
            leaf.shape, quantizer.granularity, storage.contract, storage.separate
        )
        self.values = np.array(leaf, np.float32)
        self.bounds = [np.array(x) for x in find_range(leaf, self.blocks, quantizer)]
        self.reached = np.zeros(leaf.shape, bool)
        self._places: dict[Key, Any] = {}

    def read(self, decision: Decision, at: Mapping[Key, int]) -> jax.Array:
        """What a product reads of it, as it is so far: float32."""
        return jnp.asarray(self.values.reshape(-1)[self._where(decision, at)])

    def claim(self, decision: Decision, at: Mapping[Key, int]) -> bool:
        """Whether this read is the first of all that it reads; asked once for each."""
        where = self._where(decision, at)
        is_first = not self.reached.reshape(-1)[where].any()
        self.reached.reshape(-1)[where] = True
        return is_first

    def put(self, decision: Decision, at: Mapping[Key, int], solved: Solved) -> None:
        """What a product read, quantized."""
        where = self._where(decision, at)
        self.values.reshape(-1)[where] = np.asarray(solved.values)
        blocks = self._blocks_of(decision, where)
        for bound, found in zip(self.bounds, (solved.lo, solved.hi), strict=True):
            bound.reshape(-1)[blocks] = np.asarray(found)

    def tensor(self) -> QTensor:
        """The leaf as it is stored.

        Raises:
            QuantizeError: a scale serves values of several products, which chose another each.
        """
        lo, hi = map(jnp.asarray, self.bounds)
        q = encode_within(jnp.asarray(self.values, self.dtype), self.storage, (lo, hi))
        error = np.abs(np.asarray(q.dequantize(), np.float32) - self.values)[self.reached].sum()
        if error > _OFF * np.abs(self.values[self.reached]).sum():
            raise QuantizeError(
                f"take a scale for each channel of {self.path}, or leave it out with GPTQ(path=): "
                f"a scale of {self.storage.quantizer} serves values that several products read."
            )
        return q

    def _where(self, decision: Decision, at: Mapping[Key, int]) -> np.ndarray:
        """For each element that a product reads, its place in the leaf, flat."""
        origin = decision.site.flows[decision.quantized.weight]
        assert isinstance(origin, Origin)  # as of every operand that is stored
        key = decision.site.key
        if key not in self._places:
            place = partial(_places, origin.steps, self.values.shape)
            self._places[key] = jax.jit(place)
        own = {step.scan: at[step.scan] for step in origin.steps if step.eqn is None}
        return np.asarray(self._places[key](tuple(own.values())))

    def _blocks_of(self, decision: Decision, where: np.ndarray) -> np.ndarray:
        """For each block of what a product reads, the place of the leaf's block, flat."""
        shape = self.values.shape
        first = tuple(slice(None, None, block) for block in operand_blocks(decision, where.shape))
        places = np.unravel_index(where[first], shape)
        cut = tuple(p // b for p, b in zip(places, self.blocks, strict=True))
        return np.ravel_multi_index(cut, tuple(map(count_blocks, shape, self.blocks)))


def _places(steps: Any, shape: tuple[int, ...], iterations: tuple) -> jax.Array:
    scans = [step.scan for step in steps if step.eqn is None]
    numbers = jnp.arange(int(np.prod(shape)), dtype=jnp.int32).reshape(shape)
    return replayed(steps, numbers, dict(zip(scans, iterations, strict=True)))
