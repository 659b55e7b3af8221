"""LoRA: a product with a term of low rank beside it, whose two factors alone are trained.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021); over quantized weights
Dettmers et al., "QLoRA" (2023).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers

from qpass.errors import RuleError
from qpass.graph._jax import JaxprEqn, bind
from qpass.graph.dimensions import Dims, dimensions, expert_axis, free_axes, remaining
from qpass.ops.asked import own_key

type Init = Callable[..., jax.Array]
type Factors = tuple[jax.Array, jax.Array]

# Uniform within ±1/√K, as the authors of LoRA have it (and PEFT).
FAN_IN: Init = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
ZEROS: Init = initializers.zeros

# The third operand of a site that draws random numbers: its activation and its weight come first.
DROPOUT = 2


@dataclass(frozen=True)
class LoRA:
    """What a rule adds to its products: ``(alpha / rank) * dropout(x) @ A @ B``.

    Attributes:
        rank: of the term that is added.
        alpha: its size is ``alpha / rank``.
        dropout: which part of the elements of ``x`` it does not see, where a key is given.
        init_a: initializer of A, as those of `jax.nn.initializers`, called for ``[K, rank]``.
        init_b: of B, called for ``[rank, N]``; with zeros the term is nothing at the beginning.
        dtype: of A and B; None for that of the weight.

    Raises:
        RuleError: no positive rank or alpha, a dropout outside of [0, 1), initializers that
            cannot be called, or a dtype that is not floating.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    init_a: Init = FAN_IN
    init_b: Init = ZEROS
    dtype: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise RuleError(f"Give LoRA a rank of 1 or more; got {self.rank!r}.")
        if not self.alpha > 0:
            raise RuleError(f"Give LoRA an alpha above 0; got {self.alpha!r}.")
        if not 0 <= self.dropout < 1:
            raise RuleError(f"Give LoRA a dropout from 0 to below 1; got {self.dropout!r}.")
        if not (callable(self.init_a) and callable(self.init_b)):
            raise RuleError("Give LoRA initializers that take (key, shape, dtype).")
        if self.dtype is not None and not jnp.issubdtype(self.dtype, jnp.floating):
            raise RuleError(f"Give LoRA a floating dtype; got {self.dtype!r}.")

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / self.rank

    def __str__(self) -> str:
        return f"lora r{self.rank}"


@dataclass(frozen=True)
class Adapter:
    """The two factors beside one weight. They have the weight's axes, in its order.

    Attributes:
        path: of the weight.
        lora: what the rule says.
        shape: of the weight.
        dtype: name of the factors' dtype.
        contract: axes that its products sum over, which A has.
        free: axes that appear in the result, which B has.
        shared: axes that both have: layers, experts, other batch axes.
    """

    path: str
    lora: LoRA
    shape: tuple[int, ...]
    dtype: str
    contract: tuple[int, ...]
    free: tuple[int, ...]
    shared: tuple[int, ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of both: ``a [shared .., contract .., rank]``, ``b [shared .., rank, free ..]``."""
        shared, contract, free = (
            tuple(self.shape[d] for d in axes) for axes in (self.shared, self.contract, self.free)
        )
        rank = (self.lora.rank,)
        return {"a": (*shared, *contract, *rank), "b": (*shared, *rank, *free)}

    def initial(self, key: jax.Array) -> dict[str, jax.Array]:
        """Both factors at the beginning."""
        rank, n, k = self.lora.rank, self._size(self.free), self._size(self.contract)
        keys = jax.random.split(key, (2, self._size(self.shared)))
        flat = {"a": (self.lora.init_a, (k, rank)), "b": (self.lora.init_b, (rank, n))}
        return {
            name: jnp.reshape(jax.vmap(partial(_initial, *how, self.dtype))(own), self.shapes[name])
            for own, (name, how) in zip(keys, flat.items(), strict=True)
        }

    def beside(self, factors: Mapping[str, jax.Array]) -> Factors:
        """Both with all axes of the weight, of size 1 along those they lack, and the rank last."""
        n = len(self.shared)
        a, b = factors["a"], jnp.moveaxis(factors["b"], n, -1)
        return self._beside(a, self.contract), self._beside(b, self.free)

    def _beside(self, factor: jax.Array, own: tuple[int, ...]) -> jax.Array:
        order = (*self.shared, *own)
        factor = lax.transpose(factor, (*(order.index(d) for d in sorted(order)), len(order)))
        sizes = [n if d in order else 1 for d, n in enumerate(self.shape)]
        return jnp.reshape(factor, (*sizes, self.lora.rank))

    def added(self, factors: Mapping[str, jax.Array]) -> jax.Array:
        """What stands for the two factors in a merged weight, float32, of the weight's shape."""
        a, b = (factor.astype(jnp.float32) for factor in self.beside(factors))
        return jnp.sum(a * b, -1) * self.lora.scale

    def _size(self, axes: tuple[int, ...]) -> int:
        return math.prod(self.shape[d] for d in axes)


def _initial(init: Init, shape: tuple[int, int], dtype: str, key: jax.Array) -> jax.Array:
    return init(key, shape, jnp.dtype(dtype))


@dataclass(frozen=True)
class Adapted:
    """What is done at a site with an adapter.

    Attributes:
        lora: the adapter.
        weight: which operand is the weight, 0 or 1.
        swapped: whether the product contracts what B has, as ``x @ w.T`` beside ``x @ w``.
        quantized: what is done with the product itself; None where it stays float.
    """

    lora: LoRA
    weight: int
    swapped: bool = False
    quantized: Any = None


class Products(Protocol):
    """The product that a term is added to, as `qpass.ops.operations` has it."""

    def unwrap(self, value: Any) -> jax.Array:
        """The float array that a value stands for."""
        ...

    def contraction(
        self, decision: Any, eqn: JaxprEqn, operands: Sequence[Any], fed: Any = None
    ) -> jax.Array:
        """The quantized product."""
        ...


def adapted_product(
    products: Products,
    decision: Adapted,
    eqn: JaxprEqn,
    operands: Sequence[Any],
    fed: Mapping[str, Any],
) -> jax.Array:
    """The product of a site with its term of low rank, where the site is fed factors.

    The weight is frozen then: no gradient goes there.
    """
    factors = fed.get("lora")
    rest = {name: value for name, value in fed.items() if name != "lora"}
    if factors is None:
        return _product(products, decision, eqn, operands, rest)
    held = list(operands)
    held[decision.weight] = lax.stop_gradient(held[decision.weight])
    out = _product(products, decision, eqn, held, rest)
    x = products.unwrap(operands[1 - decision.weight])
    key = own_key(rest, DROPOUT, x) if decision.lora.dropout else None
    return out + low_rank(decision, eqn, x, factors, operands[2:], key).astype(out.dtype)


def _product(
    products: Products, decision: Adapted, eqn: JaxprEqn, operands: Sequence[Any], fed: Any
) -> jax.Array:
    if decision.quantized is not None:
        return products.contraction(decision.quantized, eqn, operands, fed)
    (out,) = bind(eqn, [products.unwrap(value) for value in operands])
    return out


def low_rank(
    decision: Adapted,
    eqn: JaxprEqn,
    x: jax.Array,
    factors: Factors,
    others: Sequence[jax.Array],
    key: jax.Array | None,
) -> jax.Array:
    """``(alpha / rank) * dropout(x) @ A @ B``, in the dimension numbers of ``eqn``.

    Args:
        decision: the adapter, and which operand of the equation is the weight.
        eqn: a ``dot_general``, or a ragged one of rows that experts divide.
        x: the other operand.
        factors: A and B with all dimensions of the weight as the equation reads it, of size 1
            along those that only the other has, and the rank last.
        others: the operands of the equation after both: of a ragged one the sizes.
        key: for dropout; None for none.
    """
    contract, batch = dimensions(eqn)
    side, lora = decision.weight, decision.lora
    w_contract, w_batch = contract[side], batch[side]
    experts, free = _experts(eqn, others), free_axes(eqn, side)
    first, second = reversed(factors) if decision.swapped else factors
    options = {
        "precision": eqn.params["precision"],
        "preferred_element_type": jnp.promote_types(x.dtype, eqn.outvars[0].aval.dtype),
    }
    x = x if key is None else _dropped(x, lora.dropout, key)
    first, place = _without(first.astype(x.dtype), free)
    inner = (contract[1 - side], place(w_contract)), (batch[1 - side], place(w_batch))
    hidden = _times(x, first, inner, experts and experts.of(place), options) * lora.scale
    second, place = _without(second.astype(hidden.dtype), w_contract)
    leading = tuple(range(len(w_batch)))
    if side == 1:
        outer = ((hidden.ndim - 1,), (second.ndim - 1,)), (leading, place(w_batch))
        after = experts and experts.after(eqn).of(place)
        return _times(hidden, second, outer, after, options)
    outer = ((second.ndim - 1,), (hidden.ndim - 1,)), (place(w_batch), leading)
    return lax.dot_general(second, hidden, outer, **options)


class _Experts(NamedTuple):
    """Among whom rows of a left operand are divided.

    Attributes:
        sizes: how many rows each has.
        rows: the axis of the left operand.
        axis: the axis of the right operand that counts them.
    """

    sizes: jax.Array
    rows: int
    axis: int

    def of(self, place: Callable[[Sequence[int]], tuple[int, ...]]) -> "_Experts":
        """Of a right operand that lacks some axes."""
        return self._replace(axis=place((self.axis,))[0])

    def after(self, eqn: JaxprEqn) -> "_Experts":
        """Of the product as the left operand."""
        _, batch = dimensions(eqn)
        return self._replace(rows=len(batch[0]) + free_axes(eqn, 0).index(self.rows))


def _experts(eqn: JaxprEqn, others: Sequence[jax.Array]) -> _Experts | None:
    """Those of a ragged product; None of a plain one."""
    axis = expert_axis(eqn)
    if axis is None:
        return None
    (rows,) = eqn.params["ragged_dot_dimension_numbers"].lhs_ragged_dimensions
    return _Experts(others[0], int(rows), axis)


def _times(
    lhs: jax.Array, rhs: jax.Array, dims: Dims, experts: _Experts | None, options: dict
) -> jax.Array:
    if experts is None:
        return lax.dot_general(lhs, rhs, dims, **options)
    numbers = lax.RaggedDotDimensionNumbers(dims, [experts.rows], [experts.axis])
    return lax.ragged_dot_general(lhs, rhs, experts.sizes, numbers, **options)


def _without(
    factor: jax.Array, dims: Any
) -> tuple[jax.Array, Callable[[Sequence[int]], tuple[int, ...]]]:
    """A factor without these dimensions, and where the others are now."""
    kept = remaining(factor.ndim, dims)
    return lax.squeeze(factor, tuple(dims)), lambda some: tuple(map(kept.index, some))


def _dropped(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype))
