"""The rules that rebuild ``scan`` and ``while``.

Wrapped values cross a loop as values that no iteration changes: constants, carries that leave each
iteration as they entered it, and stacks of which each iteration of a scan takes a layer. What a
loop changes is carried as an array; a state (`Operations.is_state`) is carried as it is, if each
iteration leaves the like of what it found.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.graph._jax import JaxprEqn, scan_parts
from qpass.graph.higher_order import bodies
from qpass.graph.merging import merge, neutral
from qpass.graph.rewrite import Frame, Result, Rewriter

CARRIED = "dequantized: carried and updated by a loop"


def scan(rw: Rewriter, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
    """A ``scan``."""
    params, jaxpr = eqn.params, eqn.params["jaxpr"]
    (body,) = bodies(eqn)
    consts, carry, xs = scan_parts(eqn, operands)
    fixed, moving = _split_carry(rw, body, carry, len(consts), frame, index)
    n_carry, inner = len(carry), frame.enter(index, "body")
    layers, sliced = _split_scanned(rw, xs)

    first, onward = (params["length"] - 1, -1) if params["reverse"] else (0, 1)

    def step(state, slices):
        (number, state), (slices, feeds) = state, slices
        held = {k: layer(number) for k, layer in layers.items()}
        values = [*consts, *_merge(fixed, state), *_merge(held, slices)]
        outs, taps = rw.run(jaxpr, values, inner.fed(feeds))
        new = _carries(rw, [outs[k] for k in moving], state, frame, index)
        ys = rw.handed_on(outs[n_carry:], frame, index, "dequantized: stacked by a scan")
        return (None if number is None else number + onward, new), (ys, taps)

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    # Counted, not scanned over: XLA would fuse the look-up of a number with all that reads it.
    start = jnp.int32(first) if layers else None
    scanned = sliced, inner.feeds
    one = jax.tree.map(_slice_shape, scanned)
    after = lambda state, slices: step((start, state), slices)[0][1]  # noqa: E731
    moving = _settled(rw, moving, after, frame, index, one)
    state = (start, list(moving.values()))
    (_, state), (ys, taps) = lax.scan(step, state, scanned, **options)
    return [*_merge(fixed, state), *ys], taps


def _slice_shape(stack: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype)


def _split_scanned(rw: Rewriter, xs: list) -> tuple[dict[int, Callable], list]:
    """Stacks whose layers are taken by the step's number, and what the scan slices itself."""
    found = {k: rw.operations.layers(x) for k, x in enumerate(xs)}
    layers = {k: layer for k, layer in found.items() if layer is not None}
    return layers, [rw.operations.stacked(x) for k, x in enumerate(xs) if k not in layers]


def _split_carry(
    rw: Rewriter, body: Any, carry: list, first: int, frame: Frame, index: int
) -> tuple[dict[int, Any], dict[int, Any]]:
    """Wrapped carries that no iteration changes are held fixed; everything else moves."""
    fixed, moving = {}, {}
    for k, value in enumerate(carry):
        if rw.operations.is_wrapped(value) and first + k not in body.updated:
            fixed[k] = value
        else:
            (moving[k],) = rw.handed_on([value], frame, index, CARRIED)
    return fixed, moving


def _settled(
    rw: Rewriter, moving: dict[int, Any], after: Callable, frame: Frame, index: int, *args: Any
) -> dict[int, Any]:
    """The carries, with arrays for states that an iteration leaves as something else.

    ``after(carries, *args)`` gives those after an iteration; it is only traced.
    """
    moving = dict(moving)
    while any(map(rw.operations.is_state, moving.values())):
        left = jax.eval_shape(after, list(moving.values()), *args)
        pairs = zip(moving.items(), left, strict=True)
        changed = [k for (k, v), new in pairs if jax.tree.structure(v) != jax.tree.structure(new)]
        if not changed:
            break
        for k in changed:
            moving[k] = rw.unwrap(moving[k], (frame.path, index), CARRIED)
    return moving


def _merge(fixed: dict[int, Any], state: list) -> list:
    rest = iter(state)
    return [fixed[k] if k in fixed else next(rest) for k in range(len(fixed) + len(state))]


def _carries(rw: Rewriter, values: list, before: list, frame: Frame, index: int) -> list:
    """What an iteration leaves, in the form in which it found it."""
    why, is_state = "dequantized: carried by a loop", rw.operations.is_state
    return [
        new if is_state(old) and is_state(new) else rw.unwrap(new, (frame.path, index), why)
        for new, old in zip(values, before, strict=True)
    ]


def while_loop(rw: Rewriter, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
    """A ``while``; one that `jax.vmap` has mapped asks each example whether it goes on."""
    params = eqn.params
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts = operands[:n_cond], operands[n_cond : n_cond + n_body]
    body = bodies(eqn)[1]
    fixed, moving = _split_carry(rw, body, operands[n_cond + n_body :], n_body, frame, index)

    def ask(state):
        values = [*cond_consts, *_merge(fixed, state)]
        (going,), taps = rw.run(params["cond_jaxpr"], values, frame.enter(index, "cond"))
        return going, taps

    def run_body(state):
        values = [*body_consts, *_merge(fixed, state)]
        outs, taps = rw.run(params["body_jaxpr"], values, frame.enter(index, "body"))
        taps |= ask(state)[1] if rw.tap else {}
        return _carries(rw, [outs[k] for k in moving], state, frame, index), taps

    mapped = params["cond_jaxpr"].outvars[0].aval.ndim > 0
    if mapped:  # each example of a mapped loop stops by itself, and which they are is of arrays
        moving = {k: rw.unwrap(v, (frame.path, index), CARRIED) for k, v in moving.items()}
    moving = _settled(rw, moving, lambda state: run_body(state)[0], frame, index)

    def more(loop):
        going, _ = ask(loop[0])
        return jnp.any(going) if mapped else going

    def step(loop):
        state, taps = run_body(loop[0])
        return _where(ask(loop[0])[0], state, loop[0]) if mapped else state, merge(loop[1], taps)

    state = list(moving.values())
    none = neutral(jax.eval_shape(run_body, state)[1]) if rw.tap else {}
    state, taps = lax.while_loop(more, step, (state, none))
    last = ask(state)[1] if rw.tap else {}  # the answer that ended it was not tapped inside
    taps |= merge({name: taps[name] for name in last}, last)
    return _merge(fixed, state), taps


def _where(going: jax.Array, new: list, old: list) -> list:
    """A loop under `jax.vmap` asks each example whether it goes on; the others stay as they are."""
    axes = range(going.ndim)
    masks = [lax.broadcast_in_dim(going, value.shape, axes) for value in old]
    return [lax.select(*values) for values in zip(masks, new, old, strict=True)]
