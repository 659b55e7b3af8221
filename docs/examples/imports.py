"""A GPTQ checkpoint becomes the parameters of a plain function, codes kept, and goes out again."""

import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import qpass
from qpass.checkpoint.fit import rules_for
from qpass.checkpoint.formats import read, write_compressed_tensors, write_gptq
from qpass.checkpoint.mapping import To, fill
from qpass.checkpoint.spread import spread


def model(params, x):
    """Three layers in a scan; ``x [B, 64]``."""

    def layer(x, p):
        return x + jax.nn.silu(x @ p["up"]["kernel"]) @ p["down"]["kernel"], None

    return jax.lax.scan(layer, x * params["norm"]["scale"], params["layers"])[0]


shapes = {
    "norm": {"scale": jax.ShapeDtypeStruct((64,), jnp.float32)},
    "layers": {
        "up": {"kernel": jax.ShapeDtypeStruct((3, 64, 128), jnp.float32)},
        "down": {"kernel": jax.ShapeDtypeStruct((3, 128, 64), jnp.float32)},
    },
}

# Where each parameter of the checkpoint goes. The path has no {i}: it counts layers, which are
# stacked. The axes are those of one layer; `.weight` at the end of a name may be left out.
names = {
    "model.norm": "norm/scale",
    "model.layers.{i}.mlp.{name}_proj": To("layers/{name}/kernel", "out in -> in out"),
}


def is_stored(leaf):
    """Whether a leaf is quantized."""
    return isinstance(leaf, qpass.QTensor)


folder = Path(tempfile.mkdtemp())
x = jax.random.normal(jax.random.key(1), (4, 64))


def publish():
    """Stands for somebody's checkpoint: int4 in groups of 32, in files of GPTQ."""
    keys = iter(jax.random.split(jax.random.key(0), 3))
    params = jax.tree.map(lambda s: 0.1 * jax.random.normal(next(keys), s.shape), shapes)
    q = qpass.transform(model, qpass.Rule(weight="int4 g32 asym"))
    write_gptq(folder / "gptq", spread(q.quantize(params, x), names), rounded=True)


publish()
source = read(folder / "gptq")
print("--- read")
for name in sorted(source)[-3:]:
    print(name, source.shape(name), source[name].dtype)
print(source["model.layers.2.mlp.up_proj.weight"])

# Rules that store the leaves as the file has them, and the parameters as their plan wants them.
q = qpass.transform(model, rules_for(fill(shapes, source, names).params))
filled = fill(shapes, source, names, plan=q.plan(shapes, x))
print("--- filled")
print(filled)

# The function on codes is the function on what they stand for.
dense = jax.tree.map(
    lambda leaf: leaf.dequantize() if is_stored(leaf) else leaf, filled.params, is_leaf=is_stored
)
y = jax.jit(q)(filled.params, x)
np.testing.assert_allclose(y, jax.jit(model)(dense, x), rtol=1e-4, atol=1e-5)

# The way out again, for vLLM: the same codes under the same names.
write_compressed_tensors(folder / "compressed", spread(filled.params, names))
again = read(folder / "compressed")
name = "model.layers.1.mlp.up_proj.weight"
np.testing.assert_array_equal(again[name].codes, source[name].codes)
np.testing.assert_array_equal(again[name].scale, source[name].scale)
shutil.rmtree(folder)
