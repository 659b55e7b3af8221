"""Small decoders: unrolled or scanned, with biases, means, a tied head, norms after the blocks."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.programs import normal

VOCAB, WIDTH, LAYERS, KV, GROUPS, HEAD, HIDDEN = 16, 12, 2, 2, 2, 4, 20


@dataclass(frozen=True)
class Decoder:
    """A decoder as a function of parameters and ids ``i32[B, T]``.

    Attributes:
        scanned: whether the layers are a scan over stacked parameters.
        means: whether norms take the mean off, and have biases.
        biased: whether products have biases.
        tied: whether the head is the embedding.
        post: whether what a block adds goes through a norm with a gain first.
        positions: whether positions are learned, and the embedding scaled.
        factored: whether a norm multiplies its gain by the rest first.
        cached: whether values go through a cache that the layers carry.
    """

    scanned: bool = False
    means: bool = False
    biased: bool = False
    tied: bool = False
    post: bool = False
    positions: bool = False
    factored: bool = False
    cached: bool = False

    def __call__(self, p, ids):
        """Logits."""
        x = p["embed"][ids]
        if self.positions:
            x = x * WIDTH**0.5 + p["positions"][: ids.shape[1]]
        cache = jnp.zeros((LAYERS, *ids.shape, KV, HEAD)) if self.cached else None

        def layer(carry, w):
            x, cache, number = carry
            mixed, cache = self.attention(w, self.norm(w["before"], x), cache, number)
            x = x + self.added(w["after"], mixed)
            x = x + self.added(w["last"], self.mlp(w, self.norm(w["between"], x)))
            return (x, cache, number + 1), None

        carry = (x, cache, 0)
        if self.scanned:
            carry, _ = lax.scan(layer, carry, p["layers"])
        else:
            for k in range(LAYERS):
                carry, _ = layer(carry, jax.tree.map(lambda a, k=k: a[k], p["layers"]))
        h = self.norm(p["norm"], carry[0])
        return h @ p["embed"].T if self.tied else h @ p["head"]

    def norm(self, w, x):
        """Over the last axis, with a gain; and with a bias where it takes the mean off."""
        if self.means:
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        factor = lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        x = x * (factor * w["gain"]) if self.factored else (x * factor) * w["gain"]
        return x + w["bias"] if self.means else x

    def added(self, w, x):
        """What a block adds to the stream."""
        return self.norm(w, x) if self.post else x

    def attention(self, w, x, cache, number):
        """With values shared by groups of queries."""
        q = jnp.einsum("btd,dkgh->btkgh", x, w["q"])
        k, v = (jnp.einsum("btd,dkh->btkh", x, w[n]) for n in "kv")
        v = v + w["v_bias"] if self.biased else v
        if cache is not None:
            cache = lax.dynamic_update_slice(cache, v[None], (number, 0, 0, 0, 0))
            v = cache[number]
        weights = jax.nn.softmax(jnp.einsum("btkgh,bskh->bkgts", q, k), axis=-1)
        mixed = jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(*x.shape[:2], -1)
        return mixed @ w["o"] + (w["o_bias"] if self.biased else 0), cache

    def mlp(self, w, x):
        """SwiGLU."""
        return (jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]

    def params(self):
        """Normal numbers; gains around 1, some of them negative."""
        rng = np.random.default_rng(0)
        layers = {
            "q": (WIDTH, KV, GROUPS, HEAD),
            "k": (WIDTH, KV, HEAD),
            "v": (WIDTH, KV, HEAD),
            "v_bias": (KV, HEAD),
            "o": (KV * GROUPS * HEAD, WIDTH),
            "o_bias": (WIDTH,),
            "gate": (WIDTH, HIDDEN),
            "up": (WIDTH, HIDDEN),
            "down": (HIDDEN, WIDTH),
        }
        drawn = {n: normal(rng, (LAYERS, *shape)) / 3 for n, shape in layers.items()}
        norms = {n: _norm(rng, (LAYERS, WIDTH)) for n in ("before", "between", "after", "last")}
        return {
            "embed": normal(rng, (VOCAB, WIDTH)),
            "positions": normal(rng, (8, WIDTH)),
            "layers": drawn | norms,
            "norm": _norm(rng, (WIDTH,)),
            "head": normal(rng, (WIDTH, VOCAB)),
        }


def _norm(rng, shape):
    gain = 1 + 0.5 * normal(rng, shape)
    return {"gain": gain.at[..., 0].mul(-1), "bias": normal(rng, shape)}


IDS = np.arange(10).reshape(2, 5) % 7
