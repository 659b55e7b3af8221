"""A small convolutional network, int8 by int8, with ranges from data."""

import flax.linen as nn
import jax
import jax.numpy as jnp

import qpass


class Network(nn.Module):
    """A convolution, a depthwise one, a point convolution, classes."""

    @nn.compact
    def __call__(self, x):
        """Images ``[N, 16, 16, 3]`` to logits."""
        x = nn.relu(nn.Conv(16, (3, 3), (2, 2), name="stem")(x))
        x = nn.relu(nn.Conv(16, (3, 3), feature_group_count=16, name="depth")(x))
        x = nn.relu(nn.Conv(32, (1, 1), name="point")(x))
        return nn.Dense(10, name="classes")(x.mean((1, 2)))


images = jax.random.uniform(jax.random.key(0), (8, 16, 16, 3))
params = Network().init(jax.random.key(1), images)

# After a ReLU no value is negative: with a zero point all codes serve.
rule = qpass.Rule(weight="int8", act="int8 asym static")
q = qpass.transform(Network().apply, rule)
stats = q.capture(params, images)
q = q.with_ranges(qpass.ranges(stats))
qparams = q.quantize(params, images)

stem = qparams["params"]["stem"]["kernel"]
assert stem.scale.size == 16  # one for each output channel
want, got = Network().apply(params, images), jax.jit(q)(qparams, images)
assert jnp.abs(got - want).max() < 0.02 * jnp.abs(want).max()
