"""A product and what follows it, in one kernel: what a region of such equations is computed by.

Only where nothing is differentiated: a derivative needs the values in between, so that there all
of it is computed one by one, with the derivative rules that each equation has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from qpass.graph._jax import JaxprEqn, Var, bind
from qpass.graph.regions import Member
from qpass.graph.rewrite import read
from qpass.numerics import QTensor
from qpass.ops.asked import Follow, outline, product
from qpass.ops.dot_op import dot_spec
from qpass.ops.dot_spec import DotSpec
from qpass_kernels import select
from qpass_kernels.epilogue import Epilogue

if TYPE_CHECKING:
    from qpass.ops.operations import QTensorOperations

ZERO_POINTS = "zero points are added to the product first"


@dataclass(frozen=True)
class Followed:
    """The action of a region: a product, then bias, activation, gate and residual.

    Attributes:
        epilogue: what follows.
        product: which of the region's equations is the product.
        operands: where each array that the epilogue asks for comes from: equation, operand.
    """

    epilogue: Epilogue
    product: int
    operands: tuple[tuple[int, int], ...]

    def __call__(
        self, operations: QTensorOperations, members: Sequence[Member], inputs: Mapping[Var, Any]
    ) -> Mapping[Var, Any]:
        """The result of the last equation, in one kernel."""
        arrays, tree = jax.tree.flatten((tuple(inputs.values()), [m.fed for m in members]))
        result = members[-1].eqn.outvars[0]

        def env(arrays: Sequence[Any]) -> tuple[dict[Var, Any], list[Any]]:
            values, fed = jax.tree.unflatten(tree, arrays)
            return dict(zip(inputs, values, strict=True)), fed

        def one_by_one(*arrays: Any) -> Any:
            return _one_by_one(operations, members, *env(arrays))[result]

        # the name is what programs are shown with
        def quantized_dot_followed(*arrays: Any) -> Any:
            return self._at_once(operations, members, *env(arrays))

        at_once = jax.custom_jvp(quantized_dot_followed)
        at_once.defjvp(_derivative_of(one_by_one), symbolic_zeros=True)

        def named(*arrays: Any) -> Any:
            return at_once(*arrays)

        named.__name__ = quantized_dot_followed.__name__
        return {result: jax.jit(named)(*arrays)}

    def _at_once(
        self,
        operations: QTensorOperations,
        members: Sequence[Member],
        env: Mapping[Var, Any],
        fed: Sequence[Any],
    ) -> Any:
        site = members[self.product]
        spec = dot_spec(site.decision, site.eqn, operations.kernels)
        own = fed[self.product]
        x, w = (env[site.eqn.invars[side]] for side in (1 - spec.weight, spec.weight))
        w = operations.weight(site.decision, site.eqn, w, own)
        last = members[-1].eqn.outvars[0].aval
        found = [(members[k].eqn, position) for k, position in self.operands]
        values = tuple(
            _spread(eqn, operations.unwrap(env[eqn.invars[position]]), last.ndim)
            for eqn, position in found
        )
        follow = Follow(self.epilogue, values, last.dtype.name)
        return product(spec, operations.unwrap(x), w, lax.stop_gradient(own or {}), follow)


def _spread(eqn: JaxprEqn, value: Any, ndim: int) -> Any:
    """An operand with all axes of the result; of a broadcast, before it is one."""
    if eqn.primitive.name != "broadcast_in_dim":
        return value
    sizes = dict(zip(eqn.params["broadcast_dimensions"], value.shape, strict=True))
    return jnp.reshape(value, tuple(sizes.get(d, 1) for d in range(ndim)))


def _one_by_one(
    operations: QTensorOperations,
    members: Sequence[Member],
    env: dict[Var, Any],
    fed: Sequence[Any],
) -> dict[Var, Any]:
    """Evaluate the equations as they would be without a region."""
    for member, own in zip(members, fed, strict=True):
        eqn = member.eqn
        operands = [read(env, atom) for atom in eqn.invars]
        if member.decision is not None:
            results = [operations.contraction(member.decision, eqn, operands, own)]
        else:
            results = bind(eqn, [operations.unwrap(x) for x in operands])
        env.update(zip(eqn.outvars, results, strict=True))
    return env


def _derivative_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """The rule that has the values of ``function``, and its derivative."""

    def rule(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        moving = [k for k, t in enumerate(tangents) if not isinstance(t, SymbolicZero)]

        def of_moving(*some: Any) -> Any:
            changed = dict(zip(moving, some, strict=True))
            return function(*(changed.get(k, p) for k, p in enumerate(primals)))

        if not moving:
            out = function(*primals)
            return out, jnp.zeros_like(out)
        return jax.jvp(of_moving, [primals[k] for k in moving], [tangents[k] for k in moving])

    return rule


def kernel_of(
    spec: DotSpec, x: Any, w: QTensor, epilogue: Epilogue, out: str, platform: str
) -> tuple[str, bool] | str:
    """Which kernel takes a product, and whether with what follows it.

    Args:
        spec: of the product.
        x: its activation, anything with shape and dtype.
        w: its weight, likewise.
        epilogue: what follows.
        out: dtype name of the result.
        platform: of the kernel.

    Returns:
        its name and whether it fuses, or the reason why there is no such product.
    """
    if spec.sharding is not None:
        return "shardings are part of the types here"
    alone, is_plain = outline(spec, jax.ShapeDtypeStruct(x.shape, x.dtype), w)
    if not is_plain:
        return ZERO_POINTS
    whole = replace(alone, epilogue=epilogue, out=out)
    picked = select(spec.kernels, platform, whole)
    return picked.kernel.name, picked.product.epilogue == epilogue
