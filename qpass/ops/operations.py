"""The operations that the rewriter asks for, on QTensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from qpass.errors import PlanError
from qpass.graph._jax import JaxprEqn, bind
from qpass.graph.dimensions import dimensions
from qpass.graph.regions import Member
from qpass.numerics import QTensor, Quantizer, Scheme
from qpass.ops.asked import own_key
from qpass.ops.backward import BackwardProduct
from qpass.ops.cached import Cached, apply_cached
from qpass.ops.cached_dot import cached_dot
from qpass.ops.layer import Layer, layers, tensor
from qpass.ops.layout import apply_layout, partition_specs, shardable
from qpass.ops.lora import Adapted, adapted_product
from qpass.ops.smooth import without_mean
from qpass.ops.straight_through import dequantize
from qpass.ops.table import OPS
from qpass.ops.weights import Storage, fake_quantize_weight
from qpass_kernels import Kernel


@dataclass(frozen=True)
class Quantized:
    """What is done at a decided site.

    Attributes:
        scheme: quantizers of weight and activation.
        weight: which operand is quantized as the weight, 0 or 1.
        afresh: quantize the weight here even where it comes stored: a backward product contracts
            other axes than the forward product that its scales were made for.
        backward: which product of a forward one's backward pass this is, where the rule of that
            one decides it; the operand that is no gradient is its weight.
        cached: the weight is a cache, read as it is stored; where it comes as floats, they are.
        smooth: keys are quantized without their mean over positions (`qpass.ops.smooth`).
    """

    scheme: Scheme
    weight: int
    afresh: bool = False
    backward: BackwardProduct | None = None
    cached: bool = False
    smooth: bool = False

    @property
    def quantizer(self) -> Quantizer:
        """Of the operand that is the weight.

        Raises:
            PlanError: the scheme has none; no pass of qpass makes such an action.
        """
        if self.scheme.weight is None:
            raise PlanError(f"give the scheme {self.scheme} a quantizer for the weight.")
        return self.scheme.weight


@dataclass(frozen=True)
class QTensorOperations:
    """`qpass.graph.rewrite.Operations` for QTensors, with a table of kernels."""

    kernels: tuple[Kernel, ...]

    def is_wrapped(self, value: Any) -> bool:
        """QTensors are the wrapped values, layers of stacked ones, and caches."""
        return isinstance(value, QTensor | Layer | Cached)

    def is_state(self, value: Any) -> bool:
        """Caches."""
        return isinstance(value, Cached)

    def unwrap(self, value: Any) -> jax.Array:
        """Dequantize, with straight-through gradients."""
        value = value.tensor if isinstance(value, Cached) else tensor(value)
        return dequantize(value) if isinstance(value, QTensor) else value

    def latent_position(self, value: QTensor | Layer | Cached) -> int | None:
        """The latent float weight is the last array of a QTensor; layers have none."""
        if isinstance(value, Layer) or value.latent is None:
            return None
        return len(jax.tree.leaves(value)) - 1

    def layers(self, value: Any) -> Callable[[jax.Array], Layer] | None:
        """See `qpass.ops.layer.layers`."""
        return layers(value)

    def stacked(self, value: Any) -> Any:
        """Ready to be scanned over the leading axis."""
        if isinstance(value, Cached):
            return replace(value, tensor=value.tensor.stacked(1))
        value = tensor(value)
        return value.stacked(1) if isinstance(value, QTensor) else value

    def layout(self, eqn: JaxprEqn, operands: Sequence[Any]) -> Any | None:
        """See `qpass.ops.layout`, and `qpass.ops.cached` for caches."""
        if any(map(self.is_state, operands)):
            return apply_cached(eqn, operands)
        return apply_layout(eqn, operands)

    def shard(self, value: Any, spec: Any, mesh: Any) -> tuple[QTensor, Any] | None:
        """See `qpass.ops.layout.shardable` and `partition_specs`; a cache is not split."""
        if isinstance(value, Cached):
            return None
        value = shardable(tensor(value), spec, mesh)
        specs = partition_specs(value, spec, mesh)
        return None if specs is None else (value, specs)

    def contraction(
        self, decision: Any, eqn: JaxprEqn, operands: Sequence[Any], fed: Any = None
    ) -> jax.Array:
        """The product of a decided site, `Quantized` or `Adapted`; ``fed``: see `qpass.given`."""
        if isinstance(decision, Adapted):
            return adapted_product(self, decision, eqn, operands, fed or {})
        op = OPS[eqn.primitive.name]
        spec = op.spec(decision, eqn, self.kernels)
        x, w = (operands[side] for side in (1 - decision.weight, decision.weight))
        if decision.cached:
            return self._cached(spec, eqn, operands, x, w, fed)
        others = tuple(operands[2:])
        if decision.backward is not None:
            as_forward = decision.backward.as_forward(fed or {})
            return decision.backward.run(op.run, spec, self.unwrap(x), w, others, as_forward)
        x, mean = self.unwrap(x), None
        if decision.smooth and not self.is_wrapped(w):
            w, mean = without_mean(spec, x, w)
        out = op.run(spec, x, self.weight(decision, eqn, w, fed), others, fed)
        return out if mean is None else out + mean

    def _cached(
        self, spec: Any, eqn: JaxprEqn, operands: Sequence[Any], x: Any, w: Any, fed: Any
    ) -> jax.Array:
        """The product with a cache; of floats where it could not be followed there."""
        if not isinstance(w, Cached):
            return bind(eqn, [self.unwrap(value) for value in operands])[0]
        return cached_dot(spec, self.unwrap(x), w.tensor, fed)

    def weight(
        self, decision: Quantized, eqn: JaxprEqn, w: Any, fed: Any = None
    ) -> QTensor | Layer:
        """The weight of a product, quantized here where it is not stored so."""
        if decision.afresh:
            w = self.unwrap(w)
        if self.is_wrapped(w):
            return w
        bounds = (fed or {}).get("bounds", {}).get("weight")
        return fake_quantize_weight(w, on_the_fly(decision, eqn), bounds, own_key(fed, 1, w))

    def region(
        self, action: Any, members: Sequence[Member], inputs: Mapping[Any, Any]
    ) -> Mapping[Any, Any] | None:
        """What the action, a function ``(operations, members, inputs)``, makes of a region."""
        return action(self, members, inputs)


def on_the_fly(decision: Quantized, eqn: JaxprEqn) -> Storage:
    """How a weight that is not stored is quantized at its product."""
    contract, _ = dimensions(eqn)
    axes = tuple(sorted(contract[decision.weight]))
    return Storage(decision.quantizer, axes, ())
