"""TPU: weights decoded in registers, times floats (weight-only) or codes seen as floats."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from qpass_kernels.contraction import needs_numbers
from qpass_kernels.kernel import VALUES, Product, first_reason
from qpass_kernels.tpu import chip
from qpass_kernels.tpu.blocks import LANES, SUBLANES, Config, Sizes, fitted
from qpass_kernels.tpu.family import of_blocks
from qpass_kernels.tpu.grid import Arithmetic, contract

# (m, n, k) by rows of lhs up to, the default first. Not measured: decoding a block of the weight
# pays with many rows, and takes six bytes a code while it lasts.
SIZES: dict[int, tuple[Sizes, ...]] = {
    64: ((64, 512, 2048), (64, 256, 4096), (64, 1024, 1024), (64, 512, 4096), (64, 256, 2048)),
    512: ((512, 512, 1024), (256, 512, 1024), (512, 512, 2048), (256, 256, 2048)),
    1 << 62: (
        (1024, 512, 1024),
        (1024, 1024, 512),
        (512, 1024, 1024),
        (512, 512, 2048),
        (512, 512, 1024),
        (256, 256, 512),
    ),
}


def meant_for(product: Product) -> bool:
    """Whether the weight is codes."""
    return product.rhs != VALUES


def supports(product: Product) -> str | None:
    """Take any codes on the right, scaled by rows or by groups of a multiple of 8."""
    return first_reason(
        needs_numbers(product),
        (product.foreign, product.foreign or ""),
        ("float16" in (product.lhs, product.out), "no float16 on TPU"),
        (product.lhs == "int4", "int4 lhs"),
        (product.rhs == VALUES, "rhs is values, not codes"),
    ) or _refuse_groups(product)


def _refuse_groups(product: Product) -> str | None:
    """Judge sizes that are numbers."""
    group = product.group
    return first_reason(
        (
            product.lhs_scale == "group" and group % LANES,
            f"lhs in groups of {group}, no multiple of {LANES}",
        ),
        (product.grouped and group % SUBLANES, f"group {group} is no multiple of {SUBLANES}"),
        (
            not configs(product),
            f"no block along K fits {LANES} lanes, group {group} and the memory of a core",
        ),
    )


def configs(product: Product) -> tuple[Config, ...]:
    """Ways to cut a supported product, the default first.

    Groups shorter than the matrix unit are scaled before the product: one after the other, they
    would leave it idle in part. Longer ones after it, which takes less work. Whatever can be done
    both ways is tried both ways.
    """
    here = chip.here()
    sizes = next(sizes for rows, sizes in SIZES.items() if product.m <= rows)
    if not product.grouped or product.lhs_scale == "group":
        return tuple(fitted(product, sizes, False, here))
    orders = [True] if product.group % LANES else [product.group < here.columns]
    orders += [] if product.group % LANES else [not orders[0]]
    found = (fitted(product, sizes, before, here) for before in orders)
    return tuple(config for each in found for config in each if _holds_groups(product, config))


def _holds_groups(product: Product, config: Config) -> bool:
    """Scales before the product come in whole groups."""
    return not config.before or config.k % product.group == 0


def arithmetic(product: Product) -> Arithmetic:
    """Multiply in the float type of the left operand, or in bfloat16; sums are float32.

    Codes on the left are multiplied as bfloat16, which holds them exactly, as it does those of the
    weight. A weight that is scaled before the product is rounded to the float type of the left
    operand: to bfloat16 if that is one.
    """
    kind = jnp.float32 if product.lhs == "float32" else jnp.bfloat16
    precision = lax.Precision.HIGHEST if kind == jnp.float32 else lax.Precision.DEFAULT
    params = {"precision": precision, "preferred_element_type": jnp.float32}

    def dot(x: Any, w: Any, scale: Any) -> Any:
        if scale is None:
            return contract(x.astype(kind), w.astype(kind), 1, **params)
        return contract(x.astype(kind), _decoded(w, scale, product.group).astype(kind), 0, **params)

    return Arithmetic(dot, jnp.float32)


def _decoded(w: Any, scale: Any, group: int) -> Any:
    """Scale codes `[n, k]` by `[g, n]`, and turn them: `[k, n]` float32.

    A group then lies along sublanes, and its scale is a row repeated over them; along lanes it
    would have to be spread over parts of a register.
    """
    narrow = w.astype(jnp.int8) if w.dtype == jnp.int4 else w
    turned = narrow.T.astype(jnp.float32)
    groups = jnp.reshape(turned, (scale.shape[0], group, turned.shape[1]))
    return jnp.reshape(groups * scale[:, None, :], turned.shape)


TPU_DECODED = of_blocks("tpu_decoded", meant_for, supports, configs, arithmetic)
