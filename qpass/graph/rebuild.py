"""One rule for each higher-order primitive: rebuild it around a rewritten sub-program.

Rebuilding through JAX's public API (instead of swapping the jaxpr in the parameters) lets wrapped
values cross the boundary, keeps derivative rules attached, and differentiates correctly with
respect to values that the replacement captures. The exception is a rematerialization that JAX has
already differentiated: `jax.checkpoint` would reset that mark and let XLA undo it, so it is
rebound.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
from jax import lax
from jax.sharding import PartitionSpec

from qpass.graph._jax import Jaxpr, JaxprEqn, bind, unspecified_as_none
from qpass.graph.feeds import Feeds
from qpass.graph.higher_order import bodies
from qpass.graph.merging import across, neutral
from qpass.graph.rebuild_custom import custom_jvp, custom_vjp
from qpass.graph.rebuild_loops import scan, while_loop
from qpass.graph.rewrite import Frame, Result, Rewriter, Saving, Taps


def _flat_body(rw: Rewriter, jaxpr: Jaxpr, operands: list, frame: Frame) -> tuple[Callable, list]:
    """The rewritten sub-program as a function of plain arrays, and those arrays.

    Those of the operands come first, then those that its sites are fed. JAX traces one function
    object once, so call sites that share a jaxpr, and where the decisions inside are the same, get
    the same function; each gives it its own operands and feeds.
    """
    flat, tree = jax.tree.flatten((operands, frame.feeds))

    def body(*arrays):
        values, feeds = jax.tree.unflatten(tree, arrays)
        return rw.run(jaxpr, values, frame.fed(feeds))

    if rw.tap is not None:  # its results are named by call path, so no two call sites are the same
        return body, flat
    key = (id(jaxpr), tree, tuple(rw.below.get(frame.path, ())), id(frame.saving))
    return rw.shared.setdefault(key, body), flat


def _jit(rw: Rewriter, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
    params = eqn.params
    body, flat = _flat_body(rw, params["jaxpr"], operands, frame.enter(index, "body"))
    body.__name__ = body.__qualname__ = params["name"]
    return jax.jit(body, **_jit_options(params, operands, len(flat)))(*flat)


def _jit_options(params: Mapping, operands: list, n_arrays: int) -> dict[str, Any]:
    counts = [len(jax.tree.leaves(value)) for value in operands]
    given = [unspecified_as_none(s) for s in params["in_shardings"]]
    shardings = [
        s if n == 1 else None for s, n in zip(given, counts, strict=True) for _ in range(n)
    ]
    donated = [d for d, n in zip(params["donated_invars"], counts, strict=True) for _ in range(n)]
    options: dict[str, Any] = {
        "donate_argnums": [i for i, d in enumerate(donated) if d],
        "keep_unused": params["keep_unused"],
        "inline": params["inline"],
        "compiler_options": dict(params["compiler_options_kvs"]) or None,
    }
    outs = [unspecified_as_none(s) for s in params["out_shardings"]]
    if any(s is not None for s in shardings):
        options["in_shardings"] = (*shardings, *[None] * (n_arrays - len(shardings)))
    if any(s is not None for s in outs):
        options["out_shardings"] = (outs, None)
    return options


def _remat(rw: Rewriter, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
    policy = eqn.params["policy"]
    saving = rw.savings.setdefault(id(policy), Saving(policy)) if policy else None
    inner = replace(frame.enter(index, "body"), saving=saving)
    body, flat = _flat_body(rw, eqn.params["jaxpr"], operands, inner)
    if eqn.params["differentiated"]:
        return _rebind(eqn, "jaxpr", body, flat)
    extended = saving.extended if saving else None
    return jax.checkpoint(body, prevent_cse=eqn.params["prevent_cse"], policy=extended)(*flat)


def _rebind(eqn: JaxprEqn, name: str, body: Callable, flat: list) -> Any:
    """Bind ``eqn`` again with parameter ``name`` replaced by the traced ``body``."""
    jaxpr, shapes = jax.make_jaxpr(body, return_shape=True)(*flat)
    closed = jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars])
    out = bind(eqn, [*jaxpr.consts, *flat], {**eqn.params, name: closed})
    return jax.tree.unflatten(jax.tree.structure(shapes), out)


def _metadata_call(rw: Rewriter, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
    body, flat = _flat_body(rw, eqn.params["jaxpr"], operands, frame.enter(index, "body"))
    return _rebind(eqn, "jaxpr", body, flat)


def _inline(rw: Rewriter, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
    (body,) = bodies(eqn)
    return rw.run(body.jaxpr, operands, frame.enter(index, body.key))


def _cond(rw: Rewriter, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
    choice, *rest = operands
    given = [frame.beneath(index), *rest]
    runs = [
        partial(_branch, rw, jaxpr, frame, index, k)
        for k, jaxpr in enumerate(eqn.params["branches"])
    ]
    if any(map(rw.operations.is_state, rest)):
        kept = _states_of_all(rw, [jax.eval_shape(run, *given)[0] for run in runs])
        runs = [partial(_with_arrays, rw, run, kept, frame, index) for run in runs]
    every: Taps = {}
    if rw.tap is not None:
        for run in runs:
            every.update(jax.eval_shape(run, *given)[1])
    filled = [partial(_with_missing_taps, run, every) for run in runs]
    if eqn.params.get("branches_platforms") is not None:
        return _rebind_branches(eqn, filled, choice, given)
    return lax.switch(choice, filled, *given)


BRANCH = "dequantized: result of a branch"


def _branch(
    rw: Rewriter, jaxpr: Jaxpr, frame: Frame, index: int, k: int, feeds: Feeds, *operands: Any
) -> Result:
    outs, taps = rw.run(jaxpr, operands, frame.fed(feeds).enter(index, f"branch{k}"))
    return rw.handed_on(outs, frame, index, BRANCH), taps


def _states_of_all(rw: Rewriter, results: list[list]) -> set[int]:
    """Results that are a state of the same kind in every branch."""
    each = enumerate(zip(*results, strict=True))
    return {
        k
        for k, values in each
        if all(map(rw.operations.is_state, values))
        and len({jax.tree.structure(value) for value in values}) == 1
    }


def _with_arrays(
    rw: Rewriter, run: Callable, kept: set[int], frame: Frame, index: int, *operands: Any
) -> Result:
    """A branch that gives arrays for all results but those."""
    outs, taps = run(*operands)
    key = frame.path, index
    return [v if k in kept else rw.unwrap(v, key, BRANCH) for k, v in enumerate(outs)], taps


def _with_missing_taps(run: Callable, every: Taps, *operands: Any) -> Result:
    outs, taps = run(*operands)
    return outs, {name: taps[name] if name in taps else neutral(every[name]) for name in every}


def _rebind_branches(eqn: JaxprEqn, runs: list[Callable], choice: Any, operands: list) -> Result:
    """``platform_dependent``: the platforms are parameters, so only the branches are replaced."""
    flat, tree = jax.tree.flatten(operands)
    traced = [
        jax.make_jaxpr(lambda *a, run=run: run(*jax.tree.unflatten(tree, a)), return_shape=True)(
            *flat
        )
        for run in runs
    ]
    branches = tuple(jaxpr for jaxpr, _ in traced)
    out = bind(eqn, [choice, *flat], {**eqn.params, "branches": branches})
    return jax.tree.unflatten(jax.tree.structure(traced[0][1]), out)


def _shard_map(rw: Rewriter, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
    params = eqn.params
    axes = tuple(params["newly_manual_axes"])
    values, specs = [], []
    for value, spec in zip(operands, params["in_specs"], strict=True):
        value, spec = _sharded_operand(rw, value, spec, params["mesh"], frame, index)
        values.append(value)
        specs.append(spec)

    inner = frame.enter(index, "body")

    def body(feeds, *args):
        outs, taps = rw.run(params["jaxpr"], args, inner.fed(feeds))
        outs = rw.unwrap_all(outs, frame, index, "dequantized: result of a shard_map")
        return tuple(outs), across(taps, axes)

    mapped = jax.shard_map(
        body,
        mesh=params["mesh"],
        in_specs=(PartitionSpec(), *specs),
        out_specs=(tuple(params["out_specs"]), PartitionSpec()),
        axis_names=set(axes),
        check_vma=params["check_vma"],
    )
    outs, taps = mapped(inner.feeds, *values)
    return list(outs), taps


def _sharded_operand(
    rw: Rewriter, value: Any, spec: Any, mesh: Any, frame: Frame, index: int
) -> tuple[Any, Any]:
    if not rw.operations.is_wrapped(value):
        return value, spec
    split = rw.operations.shard(value, spec, mesh)
    if split is not None:
        return split
    why = "dequantized: its scales cannot be split as the shard_map splits the weight"
    return rw.unwrap(value, (frame.path, index), why), spec


REBUILD: Mapping[str, Callable] = MappingProxyType(
    {
        "jit": _jit,
        "pjit": _jit,
        "remat2": _remat,
        "checkpoint": _remat,
        "eval_jaxpr": _inline,
        "closed_call": _inline,
        "core_call": _inline,
        # It exists to compute no residuals that nobody reads; XLA removes those in any case.
        "remat_opt": _inline,
        "xla_metadata_call": _metadata_call,
        "custom_jvp_call": custom_jvp,
        "custom_vjp_call": custom_vjp,
        "scan": scan,
        "while": while_loop,
        "cond": _cond,
        "shard_map": _shard_map,
    }
)
