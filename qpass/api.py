"""`transform` and `jit`: what qpass does, to functions and to model objects."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

from qpass.errors import CallError
from qpass.integrations.called import CalledModule
from qpass.jitted import Jitted
from qpass.modules import refuse, transform_callable
from qpass.numerics import QPASS, Dialect, as_dialect
from qpass.passes import PASSES
from qpass.pipeline import Options, Params, Pass
from qpass.rules import Rule
from qpass.rules.matching import as_rules
from qpass_kernels import KERNELS, Kernel


def transform(
    fn: Callable,
    rules: Rule | Iterable[Rule],
    *,
    params: Params = 0,
    kernels: Iterable[Kernel] = KERNELS,
    passes: Iterable[Pass] = PASSES,
    strict: bool = True,
    dialect: str | Dialect = QPASS,
) -> Any:
    """Quantize the contractions of ``fn`` by rules; the module code stays as it is.

    Args:
        fn: any JAX function (a Flax ``apply``, a loss, a whole training step), a model object that
            can be called (an Equinox module, a registered dataclass, a Flax NNX module), or a
            method of such an object.
        rules: the first rule that fits a contraction decides it.
        params: which argument holds the parameters: position, name, or a predicate on the path
            ``argument/path/of/leaf``; None for none. A model object is the first argument
            (``self``) of its own call.
        kernels: the kernel table, fastest first.
        passes: from the sites to the final plan.
        strict: a rule without effect is an error; else a warning.
        dialect: of the formulas, for quantizers that name none: ``"qpass"``, or ``"qwix"``,
            ``"torchao"``, ``"torchao_intx"``, ``"aqt"`` for the bits of those libraries.

    Returns:
        a `Transformed`: a callable with the signature of ``fn``, and `plan`, `quantize`, `compare`
        and `nonfinite`. For a model object a `TransformedModule`, which has these too and is a
        pytree with the object's leaves; for a Flax NNX module an NNX module that shares its
        Variables.

    Raises:
        CallError: ``fn`` cannot be called.
        RuleError: ``rules`` are not rules.
        UnknownDialectError: there is no such dialect.
    """
    refuse(fn)
    spoken = as_dialect(dialect)
    given = tuple(rule.in_dialect(spoken) for rule in as_rules(rules))
    options = Options(given, params, tuple(kernels), tuple(passes), strict)
    return transform_callable(fn, options)


def jit(fn: Callable | None = None, *, rules: Any = None, **options: Any) -> Any:
    """`jax.jit` of the transformed function; a decorator with arguments, or a call.

    Args:
        fn: the function; omitted when used as a decorator with arguments.
        rules: as for `transform`.
        **options: options of `transform` (``params``, ``kernels``, ``passes``, ``strict``,
            ``dialect``) and of `jax.jit` (``static_argnums``, ``donate_argnums``, …).

    Returns:
        a `Jitted`: what `jax.jit` returns, with `plan`, `quantize`, `compare` and `nonfinite` of
        `Transformed` added; Flax NNX objects among the arguments are updated as under `nnx.jit`.

    Raises:
        CallError: no rules, or a model object instead of a function.
    """
    if rules is None:
        raise CallError("give qpass.jit its rules: @qpass.jit(rules=[qpass.Rule(...)])")
    if fn is None:
        return functools.partial(jit, rules=rules, **options)
    own = {
        k: options.pop(k)
        for k in ("params", "kernels", "passes", "strict", "dialect")
        if k in options
    }
    q = transform(fn, rules, **own)
    if isinstance(q, CalledModule):
        raise CallError(
            f"qpass.jit takes a function; {type(q.module).__name__} is a model object, whose "
            "arrays are to be arguments of what is compiled. Give jit a function of it: "
            "q = qpass.transform(model, rules); jax.jit(lambda q, x: q(x))(q, x) "
            "(for Equinox eqx.filter_jit, for Flax NNX nnx.jit)."
        )
    return Jitted(q, options)
