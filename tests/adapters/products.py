"""Products with a weight, and LoRA written by hand for them, in float64."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from tests.programs import normal

SIZES = {"b": 2, "t": 3, "m": 4, "e": 2, "k": 16, "n": 6, "h": 5, "d": 24}


@dataclass(frozen=True)
class Product:
    """An einsum of an activation by a weight.

    Attributes:
        text: the equation; the weight is its right operand.
        a: letters of A, beside those of the weight in its own order.
        b: letters of B.
        left: write the weight on the left.
    """

    text: str
    a: str
    b: str
    left: bool = False

    @property
    def letters(self):
        inputs, out = self.text.split("->")
        return (*inputs.split(","), out)

    def __call__(self, p, x):
        xs, ws, out = self.letters
        if self.left:
            return jnp.einsum(f"{ws},{xs}->{out}", p["w"], x)
        return jnp.einsum(self.text, x, p["w"])

    def arguments(self, seed=0):
        rng = np.random.default_rng(seed)
        x, w, _ = ([SIZES[c] for c in letters] for letters in self.letters)
        return {"w": normal(rng, w)}, normal(rng, x)


PRODUCTS = {
    "plain": Product("mk,kn->mn", "kr", "rn"),
    "transposed": Product("mk,nk->mn", "kr", "rn"),
    "left": Product("mk,nk->nm", "kr", "rn", left=True),
    "heads out": Product("btd,dnh->btnh", "dr", "rnh"),
    "heads in": Product("btnh,nhd->btd", "nhr", "rd"),
    "experts": Product("emk,ekn->emn", "ekr", "ern"),
    "batch inside": Product("mek,ken->emn", "ekr", "ern"),
    "experts left": Product("emk,nek->enm", "ekr", "ern", left=True),
}


def by_hand(product, x, w, a, b, scale):
    """Loss, and its gradients by x, A and B: the loss sums the sines of what comes out."""
    x, w, a, b = (np.asarray(array, np.float64) for array in (x, w, a, b))
    xs, ws, out = product.letters
    whole = w + scale * np.einsum(f"{product.a},{product.b}->{ws}", a, b)
    y = np.einsum(product.text, x, whole)
    dy = np.cos(y)
    dw = scale * np.einsum(f"{xs},{out}->{ws}", x, dy)
    return {
        "y": y,
        "x": np.einsum(f"{out},{ws}->{xs}", dy, whole),
        "a": np.einsum(f"{ws},{product.b}->{product.a}", dw, b),
        "b": np.einsum(f"{ws},{product.a}->{product.b}", dw, a),
    }
