"""The operations that the rewriter asks for, on QTensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from qpass.errors import PlanError
from qpass.graph._jax import JaxprEqn
from qpass.graph.regions import Member
from qpass.numerics import QTensor, Quantizer, Scheme
from qpass.ops.axes_of_product import normalize_dims
from qpass.ops.backward import BackwardProduct
from qpass.ops.dot_general import DotSpec, own_key, quantized_dot
from qpass.ops.layer import Layer, layers, tensor
from qpass.ops.layout import apply_layout, partition_specs, shardable
from qpass.ops.lora import Adapted, adapted_product
from qpass.ops.sharded import explicit_sharding
from qpass.ops.straight_through import dequantize
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
    """

    scheme: Scheme
    weight: int
    afresh: bool = False
    backward: BackwardProduct | None = None

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
        """QTensors are the wrapped values, and layers of stacked ones."""
        return isinstance(value, QTensor | Layer)

    def unwrap(self, value: Any) -> jax.Array:
        """Dequantize, with straight-through gradients."""
        value = tensor(value)
        return dequantize(value) if isinstance(value, QTensor) else value

    def latent_position(self, value: QTensor | Layer) -> int | None:
        """The latent float weight is the last array of a QTensor; layers have none."""
        if isinstance(value, Layer) or value.latent is None:
            return None
        return len(jax.tree.leaves(value)) - 1

    def layers(self, value: Any) -> Callable[[jax.Array], Layer] | None:
        """See `qpass.ops.layer.layers`."""
        return layers(value)

    def stacked(self, value: Any) -> Any:
        """Ready to be scanned over the leading axis."""
        value = tensor(value)
        return value.stacked(1) if isinstance(value, QTensor) else value

    def layout(self, eqn: JaxprEqn, operands: Sequence[Any]) -> Any | None:
        """See `qpass.ops.layout`."""
        return apply_layout(eqn, operands)

    def shard(self, value: QTensor | Layer, spec: Any, mesh: Any) -> tuple[QTensor, Any] | None:
        """See `qpass.ops.layout.shardable` and `partition_specs`."""
        value = shardable(tensor(value), spec, mesh)
        specs = partition_specs(value, spec, mesh)
        return None if specs is None else (value, specs)

    def contraction(
        self, decision: Any, eqn: JaxprEqn, operands: Sequence[Any], fed: Any = None
    ) -> jax.Array:
        """The product of a decided site, `Quantized` or `Adapted`; ``fed``: see `qpass.given`."""
        if isinstance(decision, Adapted):
            return adapted_product(self, decision, eqn, operands, fed or {})
        spec = dot_spec(decision, eqn, self.kernels)
        w = operands[spec.weight]
        if decision.backward is not None:
            g = self.unwrap(operands[1 - spec.weight])
            return decision.backward.run(spec, g, w, decision.backward.as_forward(fed or {}))
        if decision.afresh:
            w = self.unwrap(w)
        if not self.is_wrapped(w):
            bounds = (fed or {}).get("bounds", {}).get("weight")
            w = fake_quantize_weight(w, on_the_fly(decision, eqn), bounds, own_key(fed, 1, w))
        return quantized_dot(spec, self.unwrap(operands[1 - spec.weight]), w, fed)

    def region(
        self, action: Any, members: Sequence[Member], inputs: Mapping[Any, Any]
    ) -> Mapping[Any, Any] | None:
        """What the action, a function ``(operations, members, inputs)``, makes of a region."""
        return action(self, members, inputs)


def dot_spec(decision: Quantized, eqn: JaxprEqn, kernels: tuple[Kernel, ...]) -> DotSpec:
    """The quantized form of a ``dot_general`` equation."""
    scheme = decision.scheme
    return DotSpec(
        dims=normalize_dims(eqn.params["dimension_numbers"]),
        weight=decision.weight,
        act=scheme.act,
        out=eqn.outvars[0].aval.dtype.name,
        precision=eqn.params["precision"],
        kernels=kernels,
        sharding=explicit_sharding(eqn.outvars[0].aval),
        dlhs=scheme.dlhs and BackwardProduct("dlhs", scheme.dlhs, scheme.weight),
        drhs=scheme.drhs and BackwardProduct("drhs", scheme.drhs, scheme.act),
    )


def on_the_fly(decision: Quantized, eqn: JaxprEqn) -> Storage:
    """How a weight that is not stored is quantized at its product."""
    contract, _ = normalize_dims(eqn.params["dimension_numbers"])
    axes = tuple(sorted(contract[decision.weight]))
    return Storage(decision.quantizer, axes, ())
