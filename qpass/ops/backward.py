"""The quantized backward products of a product: one function for both places they stand in.

``dlhs`` multiplies the gradient of the result by the weight, ``drhs`` the activation by it, named
as if the weight stood on the right. They run where the op's own derivative is taken (`jax.grad`
outside of the transformed function), and in place of the products that a traced backward pass
holds (`jax.grad` inside): `run` computes both, from the same values to the same bits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from qpass.errors import CalibrationError, QuantizeError
from qpass.numerics import NEAREST, QTensor, Quantizer, Scheme, block_sizes, mixed, quantize
from qpass.numerics.schemes import Backward
from qpass.ops.asked import own_key
from qpass.ops.backward_scales import roles, with_scales
from qpass.ops.dot_spec import DotSpec, Forms
from qpass.ops.layer import tensor
from qpass.ops.linear import apply_linear
from qpass.ops.sharded import explicit_sharding
from qpass.ops.static import whole_range
from qpass.ops.straight_through import dequantize
from qpass.ops.weights import Storage, fake_quantize_weight

# Which operand of its own a product draws random numbers for; 0 and 1 are those of the forward one.
KEYS = {"dlhs": 2, "drhs": 3}
# Which operand of the forward product each reads beside the gradient.
_OTHER = {"dlhs": "weight", "drhs": "act"}


@dataclass(frozen=True)
class BackwardProduct:
    """One of the two backward products of a forward product.

    Attributes:
        product: "dlhs" or "drhs".
        how: its quantizers.
        forward: quantizer that the forward product has for the other operand; None for float.
    """

    product: str
    how: Backward
    forward: Quantizer | None

    @property
    def grad(self) -> Quantizer:
        """Quantizer of the gradient."""
        grad, _ = self.how.quantizers
        assert grad is not None  # a product without is not quantized
        return grad

    @property
    def operand(self) -> Quantizer:
        """Quantizer of the other operand."""
        _, operand = self.how.quantizers
        found = operand or self.forward
        assert found is not None  # as `Backward.or_else` leaves it
        return found

    def tangent(
        self, forms: Forms, spec: DotSpec, t: jax.Array, y: Any, others: tuple, fed: dict
    ) -> jax.Array:
        """What the tangent ``t`` of one operand adds to that of the forward product ``spec``.

        It is the float product with ``y``, the other operand, and its transpose is quantized.
        """
        side = spec.weight if self.product == "dlhs" else 1 - spec.weight
        backward, order = spec.transposed(side, (t.ndim, y.ndim))
        backward = replace(backward, sharding=_sharding(t, order))
        kept = self.residual(y, backward, fed)
        arrays, tree = jax.tree.flatten((kept, others, fed))
        out = jnp.dtype(t.dtype).name
        function = _Tangent(self, forms, spec, side, backward, order, out, tree)
        return apply_linear(function, t, *arrays)

    def residual(self, y: Any, spec: DotSpec, fed: dict) -> QTensor | jax.Array:
        """What is kept of the other operand: codes where those of the forward product serve.

        Args:
            y: the operand, float or a QTensor.
            spec: the backward product; its ``weight`` is y.
            fed: what the forward product is fed.
        """
        y = tensor(y)
        if self._is_served(y, spec, fed):
            return y if isinstance(y, QTensor) else self._as_forward(y, spec, fed)
        return _original(y)

    def run(
        self, multiply: Callable, spec: DotSpec, g: jax.Array, y: Any, others: tuple, fed: dict
    ) -> jax.Array:
        """The quantized product of the gradient ``g`` and the other operand ``y``.

        Args:
            multiply: `Forms.quantized` of the primitive.
            spec: the backward product; its ``weight`` is y, its ``act`` is ignored.
            g: float.
            y: float or a QTensor.
            others: the operands after these two.
            fed: what the forward product is fed.
        """
        q = self.residual(y, spec, fed)
        if self.how.hadamard and not isinstance(q, QTensor):
            g, q = _mixed(g, q, spec)
        if isinstance(q, QTensor) and self.how.residuals == "forward":
            g, q = with_scales(g, q, spec)
        if not isinstance(q, QTensor):
            q = self._afresh(q, spec, fed)
        product = replace(spec, act=self.grad, dlhs=None, drhs=None, accumulate=self.how.accumulate)
        return multiply(product, g, q, others, self._fed(fed))

    def as_forward(self, fed: dict) -> dict:
        """What a site of a traced backward pass is fed, in the words of the forward product.

        There the gradient is the activation, and the other operand the weight.
        """
        bounds = fed.get("bounds", {})
        names = {"act": "grad", "weight": _OTHER[self.product]}
        return fed | {"bounds": {names[side]: bound for side, bound in bounds.items()}}

    def _is_served(self, y: Any, spec: DotSpec, fed: dict) -> bool:
        """Whether the codes of the forward product are taken."""
        if self.forward is None or self.how.hadamard:
            return False
        if self.how.residuals == "forward":
            return True
        contract, free = roles(spec, y.ndim)
        mine, theirs = (
            whole_range(q, bounds, y.ndim)[0]
            for q, bounds in ((self.operand, self._bounds(fed)), (self.forward, self._theirs(fed)))
        )
        own = f"{self.product}.operand" in fed.get("bounds", {})
        return mine == theirs and not own and _blocks(y, mine, contract) == _blocks(y, mine, free)

    def _as_forward(self, y: jax.Array, spec: DotSpec, fed: dict) -> QTensor:
        """Quantized as in the forward product, which contracts what is free here."""
        _, free = roles(spec, y.ndim)
        assert self.forward is not None  # else its codes would not serve
        if self.product == "dlhs":
            storage = Storage(self.forward, free, ())
            return fake_quantize_weight(y, storage, self._theirs(fed), own_key(fed, 1, y))
        quantizer, bounds = whole_range(self.forward, self._theirs(fed), y.ndim)
        q = quantize(y, quantizer, free, bounds=bounds, key=own_key(fed, 0, y))
        return replace(lax.optimization_barrier(q), latent=y)

    def _afresh(self, y: jax.Array, spec: DotSpec, fed: dict) -> QTensor:
        """Quantized along the axes that this product contracts."""
        contract, _ = roles(spec, y.ndim)
        key = own_key(self._fed(fed), 1, y)
        return fake_quantize_weight(y, Storage(self.operand, contract, ()), self._bounds(fed), key)

    def _fed(self, fed: dict) -> dict:
        """What the backward product is fed, with the gradient for its activation."""
        mine = {}
        if "key" in fed:
            mine["key"] = jax.random.fold_in(fed["key"], KEYS[self.product])
        bounds = fed.get("bounds", {})
        grad = bounds.get(f"{self.product}.grad", bounds.get("grad"))
        return mine | ({} if grad is None else {"bounds": {"act": grad}})

    def _theirs(self, fed: dict) -> Any:
        """The range of the other operand in the forward product, where it is static."""
        return fed.get("bounds", {}).get(_OTHER[self.product])

    def _bounds(self, fed: dict) -> Any:
        """The range of the other operand in this one."""
        own = fed.get("bounds", {}).get(f"{self.product}.operand")
        return self._theirs(fed) if own is None else own


def product_of(scheme: Scheme, name: str) -> BackwardProduct | None:
    """One backward product of a scheme; None where it stays float."""
    how = getattr(scheme, name)
    return how and BackwardProduct(name, how, scheme.weight if name == "dlhs" else scheme.act)


@dataclass(frozen=True)
class _Tangent:
    """`qpass.ops.linear.Linear`: the forward product in one operand, its transpose quantized.

    Attributes:
        product: which backward product the transpose is.
        forms: how products of the primitive are computed.
        spec: the forward product.
        side: which operand of it is the residual.
        backward: the backward product as JAX writes it, the gradient on the left.
        order: axes of the tangent, in the order in which that product has them.
        dtype: name of that of the tangent.
        tree: of the residual operand, of the operands after the two, and of what is fed.
    """

    product: BackwardProduct
    forms: Forms
    spec: DotSpec
    side: int
    backward: DotSpec
    order: tuple[int, ...]
    dtype: str
    tree: Any

    def __call__(self, t: jax.Array, *arrays: jax.Array) -> jax.Array:
        y, others, fed = jax.tree.unflatten(self.tree, arrays)
        if not isinstance(y, QTensor) and self.product.forward is not None:
            y = self.product._as_forward(y, self.backward, fed)
        y = dequantize(y) if isinstance(y, QTensor) else y
        x, w = (t, y) if self.side == self.spec.weight else (y, t)
        return self.forms.floats(self.spec, x, w, others)

    def transpose(self, g: jax.Array, *arrays: jax.Array) -> jax.Array:
        y, others, fed = jax.tree.unflatten(self.tree, arrays)
        self._check(fed)
        out = self.product.run(self.forms.quantized, self.backward, g, y, others, fed)
        back = sorted(range(out.ndim), key=self.order.__getitem__)
        return lax.transpose(out, back).astype(self.dtype)

    def _check(self, fed: dict) -> None:
        """Refuse what has no key to round by, or no range.

        Raises:
            QuantizeError: the product rounds stochastically, and there is no key.
            CalibrationError: its gradient is static, and there is no range.
        """
        name, product = self.product.product, self.product
        if "key" not in fed and any(q.rounding != NEAREST for q in (product.grad, product.operand)):
            raise QuantizeError(
                f"Give a random key, as jax.grad(q.with_key(key))(...) with another key for each "
                f"step: {name} rounds stochastically ({product.how})."
            )
        static = product.grad.is_static and not product.grad.delayed_range
        if static and "act" not in product._fed(fed).get("bounds", {}):
            raise CalibrationError(
                f"Give the gradient its range, as q.with_ranges({{'<site>:{name}.grad': (lo, hi)}})"
                f": {name} has a static quantizer ({product.how}). A capture of a function that "
                "calls jax.grad itself finds it."
            )


def _sharding(t: jax.Array, order: tuple[int, ...]) -> NamedSharding | None:
    """Of an array with the axes of t in that order, where shardings are part of the types."""
    sharding = explicit_sharding(jax.typeof(t))
    if sharding is None:
        return None
    names = (*sharding.spec, *[None] * (t.ndim - len(sharding.spec)))
    return NamedSharding(sharding.mesh, PartitionSpec(*(names[d] for d in order)))


def _mixed(g: jax.Array, y: jax.Array, spec: DotSpec) -> tuple[jax.Array, jax.Array]:
    """Both operands transformed along the last axis of y that is summed over, as groups lie."""
    axes = dict(zip(spec.dims[0][spec.weight], spec.dims[0][1 - spec.weight], strict=True))
    last = max(axes)
    return mixed(g, axes[last]), mixed(y, last)


def _blocks(y: Any, quantizer: Quantizer, contract: tuple[int, ...]) -> tuple[int, ...]:
    return block_sizes(y.shape, quantizer.granularity, contract)


def _original(y: Any) -> jax.Array:
    """The float value that is quantized anew: the float weight itself where there is one."""
    if not isinstance(y, QTensor):
        return y
    return y.dequantize() if y.latent is None else y.latent
