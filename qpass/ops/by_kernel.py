"""Primitives that are lowered with a kernel of a table, picked for where the program goes.

Their parameter ``kernels`` is the table. Kernels that call compiled code of this machine are left
out of it where the program leaves the machine, or the compiler splits it over devices.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from qpass.errors import DerivativeError
from qpass.graph._jax import Primitive, ad, batching, mlir, stays_here
from qpass_kernels import portable

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def run_by_kernel(
    primitive: Primitive,
    statics: tuple[str, ...],
    *,
    run: Callable[..., Any],
    abstract: Callable[..., Any],
    batch: Callable[..., Any],
) -> None:
    """Give a primitive its meaning.

    Args:
        primitive: of one result, or with ``multiple_results``.
        statics: its parameters, ``kernels`` among them.
        run: the operands and, by name, the parameters and ``platform`` -> the result; traceable.
        abstract: the operands' types and, by name, the parameters -> the type of the result.
        batch: the rule for ``vmap``.
    """

    # A function of its own: a partial has no name to show in profiles and programs.
    def jitted(*args, **params):
        return primitive.bind(*args, **params)

    compiled = jax.jit(jitted, static_argnames=statics)
    primitive.def_impl(partial(_eager, compiled, run))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    ad.primitive_jvps[primitive] = _no_rule
    for platform in PLATFORMS:
        rule = partial(_lower, partial(run, platform=platform), primitive.multiple_results)
        mlir.register_lowering(primitive, rule, platform=platform)


def _eager(compiled: Callable, run: Callable, *args: Any, **params: Any) -> Any:
    """One call by itself, where nothing is lowered: compiled, unless that is switched off."""
    if not jax.config.jax_disable_jit:
        return compiled(*args, **params)
    if any(len(x.devices()) > 1 for x in args):
        params["kernels"] = portable(params["kernels"])
    return run(*args, platform=jax.default_backend(), **params)


def _lower(run: Callable, several: bool, ctx: Any, *args: Any, kernels: tuple, **params: Any):
    """Lower with the kernels that may be called where this goes."""
    kernels = kernels if stays_here(ctx) else portable(kernels)
    function = partial(run, kernels=kernels, **params)
    return mlir.lower_fun(function, multiple_results=several)(ctx, *args)


def _no_rule(*args, **params):
    """Reached where JAX has lost the straight-through rule around the primitive.

    jax 0.11 does so to every ``custom_jvp`` inside a ``scan`` that has been differentiated in
    reverse, whoever wrote it: a second derivative then takes that of the function's own body.
    """
    raise DerivativeError(
        "differentiate this scan once only, or first in forward mode (grad of jvp): before jax "
        f"0.12 (this is {jax.__version__}), a scan differentiated in reverse loses the derivative "
        "rules inside. A loop written in Python keeps them too."
    )
