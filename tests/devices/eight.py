"""The decoder block on eight devices, by each kind of parallelism.

``python -m tests.devices.eight blocks SCHEME``, ``wires SCHEME`` or ``products`` prints what came
as JSON.
"""

import json
import os
import sys
from dataclasses import dataclass
from functools import partial

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import qpass
from tests.devices.block import MESHES, decoder_block, parameters, rules, stages, tokens
from tests.devices.wire import sent

AUTO = Mesh(np.array(jax.devices()), ("d",))
SCHEMES = {
    "int8 x int8": ("int8", "int8"),
    "int8": ("int8", None),
    "int4 g16": (qpass.int4.grouped(16), None),
    "int4 g16 x int8": (qpass.int4.grouped(16), "int8"),
    "float": None,
}
SEEDS = (1, 5, 8)


def rules_of(scheme):
    return rules(*SCHEMES[scheme]) if SCHEMES[scheme] else [qpass.Rule(keep=True)]


@dataclass(frozen=True)
class Local:
    """What one device has: stored parameters, and by seed what the block gives at which stages."""

    stored: dict
    outs: dict
    given: dict
    stages: dict


def one_device(scheme):
    q, each = (qpass.transform(fn, rules_of(scheme)) for fn in (decoder_block, stages))
    stored = q.quantize(parameters(), tokens())
    run, stage = jax.jit(q), jax.jit(each)
    outs = {seed: np.asarray(run(stored, tokens(seed))) for seed in SEEDS}
    given = {seed: jax.device_get(stage(stored, tokens(seed))) for seed in SEEDS}
    wanted = {seed: stage(stored, tokens(seed), given[seed]) for seed in SEEDS}
    return Local(stored, outs, given, wanted)


def compare(mesh, scheme, local):
    """The block on stored codes, sharded, beside the same on one device.

    ``stages`` begins each stage with the very numbers that one device has there.
    """
    q, parts = sharded(decoder_block, mesh, scheme)
    run, stage = jax.jit(q), jax.jit(sharded(stages, mesh, scheme)[0])
    spec = MESHES[mesh][1]
    xs = {seed: place(tokens(seed), spec) for seed in SEEDS}
    given = jax.tree.map(lambda value: place(value, spec), local.given)
    got = {seed: stage(parts, xs[seed], given[seed]) for seed in SEEDS}
    return {
        "alike": all(map(same, jax.tree.leaves(local.stored), jax.tree.leaves(parts))),
        "errors": [apart(run(parts, xs[seed]), local.outs[seed]) for seed in SEEDS],
        "stages": {
            name: max(apart(got[seed][name], local.stages[seed][name]) for seed in SEEDS)
            for name in got[SEEDS[0]]
        },
    }


def sharded(fn, mesh, scheme):
    """The block or its stages quantized, and its stored parameters where the mesh has them."""
    specs, _ = MESHES[mesh]
    used = partial(fn, use=gathered) if mesh == "fsdp" else fn
    q = qpass.transform(used, rules_of(scheme))
    placed = {name: place(w, specs.get(name, P())) for name, w in parameters().items()}
    return q, q.quantize(placed, tokens())


def wire(mesh, scheme):
    """What the compiled block sends."""
    q, parts = sharded(decoder_block, mesh, scheme)
    return listed(jax.jit(q).lower(parts, place(tokens(), MESHES[mesh][1])).compile())


def gathered(weight):
    """As FSDP is written: each weight is whole where it is used."""
    return jax.lax.with_sharding_constraint(weight, sharding(P()))


def apart(got, wanted):
    """The greatest difference, of the greatest value."""
    return float(abs(np.asarray(got) - np.asarray(wanted)).max() / abs(np.asarray(wanted)).max())


def place(array, spec):
    return jax.device_put(array, sharding(spec))


def sharding(spec):
    return NamedSharding(AUTO, spec)


def same(one, other):
    return np.array_equal(np.asarray(one, np.float32), np.asarray(other, np.float32))


def listed(compiled):
    return [(s.kind, s.dtype, s.shape, s.nbytes) for s in sent(compiled)]


def product(mode, side):
    """One product of integers: what differs from that of one device, to the bit."""
    rng = np.random.default_rng(2)
    w = rng.standard_normal((64, 32)).astype(np.float32)
    x = jnp.asarray(rng.standard_normal((16, 64)), jnp.float32)
    q = qpass.transform(lambda p, x: x @ p, rules("int8", "int8")[1:])
    wanted = jax.jit(q)(q.quantize(w, x), x)
    of_w, of_x = {"data": (P(), P("d")), "columns": (P(None, "d"), P()), "rows": ROWS}[side]
    with jax.set_mesh(jax.make_mesh((8,), ("d",), axis_types=(mode,))):
        out = P(None, None) if side == "rows" else None
        given = jax.device_put(w, of_w), jax.device_put(x, of_x)
        mine = qpass.transform(
            lambda p, x: jnp.matmul(x, p, **({"out_sharding": out} if out else {})),
            rules("int8", "int8")[1:],
        )
        stored = mine.quantize(*given)
        compiled = jax.jit(mine).lower(stored, given[1]).compile()
        got = compiled(stored, given[1])
        return {"error": float(abs(np.asarray(got) - wanted).max()), "sent": listed(compiled)}


ROWS = (P("d"), P(None, "d"))


def products():
    """One product by each way to split it, with and without shardings in the types."""
    return {
        f"{mode.name}, {side}": product(mode, side)
        for mode in (AxisType.Auto, AxisType.Explicit)
        for side in ("data", "columns", "rows")
    }


def blocks(scheme):
    local = one_device(scheme)
    return {mesh: compare(mesh, scheme, local) for mesh in MESHES}


def wires(scheme):
    return {mesh: wire(mesh, scheme) for mesh in MESHES}


MEASURES = {"products": products, "blocks": blocks, "wires": wires}

if __name__ == "__main__":
    asked, *words = sys.argv[1:]
    print(json.dumps(MEASURES[asked](*words)))
