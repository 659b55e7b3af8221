"""Functions as Flax modules, the way that a user of Qwix would have them, run through Qwix."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Fn = Callable[[dict[str, Any], Any], Any]


def as_module(fn: Fn, params: dict[str, jax.Array]) -> nn.Module:
    """A Linen module with those parameters that computes `fn(params, x)`."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            names = params.items()
            zeros = nn.initializers.zeros
            return fn({n: self.param(n, zeros, p.shape, p.dtype) for n, p in names}, x)

    return Model()


@dataclass(frozen=True)
class Peer:
    """Qwix 0.1.8.

    Attributes:
        module: the package.
    """

    module: Any

    def rules(self, weight: Any = "int8", act: Any = "int8", path: str = ".*", **more: Any) -> Any:
        """One rule for all layers of a path."""
        rule = self.module.QtRule if "bwd_qtype" in more else self.module.QuantizationRule
        return [rule(module_path=path, weight_qtype=weight, act_qtype=act, **more)]

    def serve(self, model: nn.Module, variables: Any, x: Any, rules: Any = None) -> tuple[Any, Any]:
        """Its PTQ, both steps under jit: the result and the stored parameters."""
        quantized, stored = self.store(model, variables, x, rules)
        return jax.jit(quantized.apply)(stored, x), stored["params"]

    def store(self, model: nn.Module, variables: Any, x: Any, rules: Any = None) -> tuple[Any, Any]:
        """The PTQ model and its variables."""
        provider = self.module.PtqProvider(rules or self.rules())
        quantized = self.module.quantize_model(model, provider)
        template = jax.eval_shape(quantized.init, jax.random.key(0), x)["params"]
        store = jax.jit(lambda params: self.module.quantize_params(params, template))
        return quantized, {"params": store(variables["params"])}

    def train(self, model: nn.Module, rules: Any = None) -> nn.Module:
        """The model in its quantized training."""
        return self.module.quantize_model(model, self.module.QtProvider(rules or self.rules()))

    def served(self, fn: Fn, params: dict, x: Any, rules: Any = None) -> tuple[Any, Any]:
        """`serve` for a function."""
        return self.serve(as_module(fn, params), {"params": params}, x, rules)

    def trained(self, fn: Fn, params: dict, x: Any, rules: Any = None) -> Any:
        """The result of a function in its quantized training, under jit."""
        return jax.jit(self.train(as_module(fn, params), rules).apply)({"params": params}, x)


def is_stored(param: Any) -> bool:
    """Whether a parameter of Qwix is codes and scales."""
    return type(param).__name__ == "WithAux"


def assert_stored_alike(theirs: Any, ours: Any) -> None:
    """Qwix's stored parameter and a QTensor have the same codes and the same scales."""
    ours = ours.in_order()
    for one, other in ((theirs.array.qvalue, ours.codes), (theirs.array.scale, ours.scale)):
        np.testing.assert_array_equal(one.astype(jnp.float32), other.astype(jnp.float32))
