"""All that qpass knows of JAX beyond its documented API, and all that differs between versions.

Everything here was checked on jax 0.11.2 and 0.12.0.1. No module of ``jax._src`` is imported;
what is read by attribute from private *values* is listed here, with the reason:

* ``eqn.ctx.manager`` (context manager): re-establishes the mesh and config an equation was
  traced under; without it, explicit shardings and ``default_matmul_precision`` get lost.
* ``eqn.params['ft_in']`` of ``scan`` (a FlatTree): the only place that says which operands are
  constants, carries and scanned inputs.
* ``UnspecifiedValue`` (recognised by type name): how ``jit`` spells "no sharding given".
* ``primitive.get_bind_params``: turns stored parameters into what ``bind`` accepts.
* ``aval.mat.varying``, absent outside ``shard_map``: the manual axes a value varies over.
* ``eqn.source_info`` with its ``name_stack.stack`` of ``Scope`` and ``Transform`` (recognised by
  type name): modules and transformations around an equation; nothing public lists them apart.
* ``SaveableType`` and ``Offloadable`` (by type name): what rematerialization policies answer.
* ``module_context`` of a lowering rule's context, with ``lowering_parameters.for_export``,
  ``platforms`` and ``axis_context.num_devices``: whether a module is compiled for this machine.
* names and parameters of primitives that JAX gives no handle for (``shard_map``, ``pallas_call``,
  ``call_hi_primitive``, collectives …): `FIRST_ORDER` here, and the tables of
  `qpass.graph.higher_order` and `qpass.graph.opaque`. An unknown name is listed in the plan.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import jax
import jax.core
import jax.extend.core as jex
import jax.extend.source_info_util as source_info
from jax.extend.core import primitives
from jax.interpreters import ad, batching, mlir

if TYPE_CHECKING:  # JAX declares every aval as AbstractValue, which has neither shape nor dtype
    from typing import Any as Jaxpr
    from typing import Any as JaxprEqn
else:
    Jaxpr = jex.Jaxpr
    JaxprEqn = jex.JaxprEqn
Literal = jex.Literal
Primitive = jex.Primitive
Var = jex.Var
ShapedArray = jax.core.ShapedArray

__all__ = [
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Primitive",
    "ShapedArray",
    "Var",
    "ad",
    "batching",
    "mlir",
]


def sub_jaxprs(value: Any) -> Iterator[Jaxpr]:
    """The jaxprs inside one equation parameter, in order, through tuples and lists."""
    if isinstance(value, jex.Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from sub_jaxprs(item)


def params_jaxprs(eqn: JaxprEqn) -> list[Jaxpr]:
    """Every jaxpr that the parameters of ``eqn`` hold."""
    return [jaxpr for value in eqn.params.values() for jaxpr in sub_jaxprs(value)]


# JAX's own primitives. Its public list leaves some out: those of several arrays follow.
FIRST_ORDER = frozenset(
    {p.name for p in vars(primitives).values() if isinstance(p, Primitive)}
    | {"check", "cholesky_update", "create_linear", "dce_sink", "debug_callback", "debug_print"}
    | {"layout_constraint", "mesh_cast", "optimization_barrier", "ormqr", "pbroadcast", "pcast"}
    | {"pin", "precv", "preduced", "program_order", "psend", "pvary", "reciprocal", "relayout"}
    | {"reshard", "scatter-sub", "split", "stack", "stage", "symmetric_product", "tie", "unpin"}
    | {"unstack", "with_memory_space_constraint", "xla_metadata_value"}
    | {f"unreduced_{name}" for name in ("pmax", "pmin", "psum", "reduce_scatter")}
    | {f"{a}_cast{b}" for a in ("reduced_vary", "vary_unreduced") for b in ("", "_p")}
    | {
        f"{name}{kind}{end}"
        for name in ("all_gather", "all_to_all", "ppermute", "psum", "reduce_scatter")
        for kind in ("", "_invariant", "_reduced")
        for end in ("", "_start", "_done")
    }
)


def bind(eqn: JaxprEqn, operands: Sequence[Any], params: dict | None = None) -> list[Any]:
    """Evaluate ``eqn`` on ``operands``; always a list of results."""
    stored = eqn.params if params is None else params
    out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(stored))
    return list(out) if eqn.primitive.multiple_results else [out]


def equation_context(eqn: JaxprEqn) -> AbstractContextManager:
    """Mesh and configuration that ``eqn`` was traced under."""
    return eqn.ctx.manager


def located_like(eqn: JaxprEqn) -> AbstractContextManager:
    """Give what is traced inside the source line of ``eqn``."""
    return source_info.user_context(eqn.source_info.traceback)


def named_like(eqn: JaxprEqn) -> AbstractContextManager:
    """Give what is traced inside the name stack and source line of ``eqn``."""
    stack = source_info.current_name_stack() + eqn.source_info.name_stack
    return source_info.user_context(eqn.source_info.traceback, name_stack=stack)


def name_stack(eqn: JaxprEqn) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``(scopes, transforms)`` of the equation, relative to its own jaxpr, outermost first."""
    stack = eqn.source_info.name_stack.stack
    scopes = tuple(part.name for part in stack if type(part).__name__ == "Scope")
    transforms = tuple(part.name for part in stack if type(part).__name__ == "Transform")
    return scopes, transforms


def source_line(eqn: JaxprEqn) -> str:
    """``file.py:12 (function)`` of the user's code, or an empty string."""
    text = source_info.summarize(eqn.source_info)
    path, _, rest = text.rpartition("/")
    return rest if path else text


def dtype_short(dtype: Any) -> str:
    """Short name of a dtype: ``f32``, ``bf16``, ``i8``, ``key<fry>``."""
    text = ShapedArray((), dtype).str_short(short_dtypes=True)
    return text.removesuffix("[]")


def scan_parts(eqn: JaxprEqn, values: Sequence[Any]) -> tuple[list, list, list]:
    """Split one value per operand of a ``scan`` into constants, carries and scanned inputs."""
    consts, carry, xs = eqn.params["ft_in"].update(list(values)).unpack()
    return list(consts), list(carry), list(xs)


def unspecified_as_none(sharding: Any) -> Any:
    """``None`` where ``jit`` was given no sharding, else the sharding."""
    return None if type(sharding).__name__ == "UnspecifiedValue" else sharding


def kept_as(verdict: Any) -> str | None:
    """How a rematerialization policy's answer keeps a value; None for "compute it again"."""
    if verdict is True or type(verdict).__name__ == "SaveableType":
        return "saved"
    if type(verdict).__name__ == "Offloadable":
        return f"offloaded.{verdict.src}.{verdict.dst}"
    return None


def varying_axes(value: Any) -> frozenset:
    """Manual mesh axes that ``value`` varies over (inside ``shard_map``)."""
    mat = getattr(jax.typeof(value), "mat", None)
    return frozenset(getattr(mat, "varying", ()) or ())


def trace_context() -> tuple:
    """What, besides the arguments, changes the program a trace gives; part of cache keys."""
    config = jax.config
    return (
        jax.sharding.get_abstract_mesh(),
        config.jax_enable_x64,
        config.jax_numpy_dtype_promotion,
        config.jax_default_matmul_precision,
        config.jax_default_prng_impl,
        config.jax_debug_nans,
    )


def stays_here(ctx: Any) -> bool:
    """Whether what is lowered in ``ctx`` is compiled for this machine, and not partitioned.

    False for ``jax.export``, for several platforms at once, and where the compiler splits the
    program over several devices; inside a ``shard_map`` over all axes each device has its own.
    """
    module = ctx.module_context
    if module.lowering_parameters.for_export or len(module.platforms) > 1:
        return False
    axis_types = jax.sharding.get_abstract_mesh().axis_types
    manual = bool(axis_types) and all(t == jax.sharding.AxisType.Manual for t in axis_types)
    return manual or getattr(module.axis_context, "num_devices", 0) == 1
