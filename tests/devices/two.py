"""One of two processes with two devices each, as one machine: from quantize to save and load.

``python -m tests.devices.two RANK PORT FOLDER`` saves the stored tree, loads it and prints what
came as JSON.
"""

import json
import sys

import jax
import numpy as np
import orbax.checkpoint as checkpoint
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import qpass

RULES = [qpass.Rule(path="up", weight="int8", act="int8 static"), qpass.Rule(weight="int8")]


def network(params, x):
    return jax.nn.relu(x @ params["up"]) @ params["down"]


def arrays():
    rng = np.random.default_rng(0)
    shapes = {"up": (16, 32), "down": (32, 8)}
    params = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    return params, rng.standard_normal((8, 16)).astype(np.float32)


def everything(params, x):
    """What all four uses give, of arrays that lie anywhere."""
    q = qpass.transform(network, RULES)
    stats = q.calibrate(params, [x])
    q = q.with_ranges(qpass.ranges(stats))
    stored = q.quantize(params, x)

    def loss(params):
        return (q(params, x) ** 2).mean()

    grads = jax.jit(jax.grad(loss))(params)
    trained = jax.tree.map(lambda w, g: w - 0.1 * g, params, grads)
    return {
        "stored": stored,
        "codes": {k: stored[k].codes for k in stored},
        "scales": {k: stored[k].scale for k in stored},
        "ranges": {k: {f: s[f] for f in ("min", "max", "count")} for k, s in stats.items()},
        "run": jax.jit(q)(stored, x),
        "trained": trained,
    }


def main(rank, port, folder):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    mesh = Mesh(np.array(jax.devices()), ("d",))
    params, x = arrays()
    specs = {"up": P(None, "d"), "down": P("d")}
    placed = {k: place(mesh, specs[k], v) for k, v in params.items()}
    given = everything(placed, place(mesh, P(), x))
    stored = given.pop("stored")
    with checkpoint.StandardCheckpointer() as files:
        files.save(folder, stored)
        files.wait_until_finished()
        loaded = files.restore(folder, jax.tree.map(abstract, stored))
    given["loaded"] = {name: loaded[name].codes for name in loaded}
    placed = [loaded[name].codes.sharding == stored[name].codes.sharding for name in stored]
    whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))(given)
    spread = [not v.is_fully_addressable for v in given["codes"].values()]
    print(
        json.dumps(
            jax.tree.map(lambda v: np.asarray(v).tolist(), whole)
            | {"spread": spread, "placed": placed}
        )
    )
    jax.distributed.shutdown()


def abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def place(mesh, spec, array):
    make = jax.make_array_from_callback
    return make(array.shape, NamedSharding(mesh, spec), lambda index: array[index])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
