"""A quantized function with its parameters as a file, run by a process that has no qpass."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import qpass

LOAD = """
import sys
from pathlib import Path
import numpy as np
from jax import export
folder = Path(sys.argv[1])
served = export.deserialize((folder / "served").read_bytes())
assert served.platforms == ("cpu", "cuda", "tpu"), served.platforms
given = np.load(folder / "given.npz")
codes = [given[f"arr_{k}"].astype(aval.dtype) for k, aval in enumerate(served.in_avals)]
np.save(folder / "out.npy", served.call(codes[:-1], codes[-1]))
np.save(folder / "inside.npy", export.deserialize((folder / "inside").read_bytes()).call(codes[-1]))
assert not [name for name in sys.modules if name.startswith("qpass")]
"""
RULES = [
    qpass.Rule(path="up", weight="int8", act="int8"),
    qpass.Rule(path="down", weight=qpass.int4.grouped(16)),
]


def network(params, x):
    return jnp.tanh(x @ params["up"]) @ params["down"]


def test_a_fresh_process_runs_the_artifact_without_qpass(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"up": (32, 64), "down": (64, 16)}
    params = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    x = jnp.asarray(rng.standard_normal((4, 32)), jnp.float32)
    q = qpass.transform(network, RULES)
    stored = q.quantize(params, x)
    codes, tree = jax.tree.flatten(stored)
    platforms = ("cpu", "cuda", "tpu")
    served = jax.jit(lambda codes, x: q(jax.tree.unflatten(tree, codes), x))
    inside = jax.jit(lambda x: q(stored, x))
    write = {"served": (served, (codes, x)), "inside": (inside, (x,))}
    for name, (fn, args) in write.items():
        artifact = export.export(fn, platforms=platforms)(*args)
        (tmp_path / name).write_bytes(artifact.serialize())
    # NumPy's files know no int4: such codes are written as int8.
    plain = [np.asarray(c, np.int8 if c.dtype == jnp.int4 else c.dtype) for c in codes]
    np.savez(tmp_path / "given.npz", *plain, x)
    subprocess.run(
        (sys.executable, "-c", LOAD, str(tmp_path)),
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"},
        cwd=tmp_path,
        timeout=120,
        check=True,
    )
    wanted = jax.jit(q)(stored, x)
    for name in ("out.npy", "inside.npy"):
        np.testing.assert_allclose(np.load(tmp_path / name), wanted, rtol=1e-6, atol=2e-6)
