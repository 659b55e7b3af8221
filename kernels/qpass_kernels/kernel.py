"""What a quantized product is, what a kernel for it looks like, and how one is chosen."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from qpass_kernels.contraction import Contraction
from qpass_kernels.epilogue import NOTHING, Epilogue, finish
from qpass_kernels.ragged import RaggedMatmul
from qpass_kernels.row_quantizer import RowQuantizer

# 8-bit floats that no tensor core of the kernels here multiplies
FOREIGN_FP8 = ("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e4m3b11fnuz")
CODES = ("int8", "int4", "float8_e4m3fn", "float8_e5m2", *FOREIGN_FP8)
VALUES = "float32"
FLOATS = ("float32", "bfloat16", "float16")
ALIASES = {"gpu": "cuda"}  # jax.default_backend() says "gpu" where lowering says "cuda"


@dataclass(frozen=True)
class Product(Contraction):
    """`out[b, m, n] = sum_k lhs[b, m, k] * rhs[b, n, k]`, each operand times its scales.

    Attributes:
        batch, m, n, k: sizes; `batch` and `m` (in the reference every one) may be symbolic.
        lhs: dtype name of the left operand: int8 or fp8 codes, or a float (weight-only).
        rhs: dtype name of the right codes: integers or fp8; float32 where
            codes have been turned into what they stand for, before scales.
        out: dtype name of the result.
        group: elements of K that share a scale; `k` where no operand is grouped.
        lhs_scale: "none" (float lhs), "row" (`[B, M, 1]`) or "group" (`[B, M, G]`).
        rhs_scale: "row" (`[B, N, 1]`) or "group" (`[B, N, G]`), with `G = ceil(k / group)`.
        table: what the bit patterns of codes on the right stand for, before scales: 2, 4, 8 or 16
            numbers for codes of 1, 2, 3 or 4 bits, that `rhs` holds too. The codes come as they are
            stored: an array `[B, N, K]` of any dtype of four bits, or without gaps in bytes
            `[B, N, ceil(bits * K / 8)]`, the first code in the lowest bits. None: codes are of the
            dtype `rhs`, and the numbers that they are.
        epilogue: what follows the sums, before they are cast to `out`.

    Raises:
        ValueError: a dtype or a scale layout that no kernel can be asked for.
    """

    batch: Any
    m: Any
    n: Any
    k: Any
    lhs: str
    rhs: str
    out: str
    group: Any
    lhs_scale: Literal["none", "row", "group"]
    rhs_scale: Literal["row", "group"]
    table: tuple[float, ...] | None = None
    epilogue: Epilogue = NOTHING

    def __post_init__(self):
        _one_of("lhs", self.lhs, CODES + FLOATS)
        _one_of("rhs", self.rhs, (*CODES, VALUES))
        _one_of("out", self.out, FLOATS)
        _one_of("lhs_scale", self.lhs_scale, ("row", "group") if self.lhs in CODES else ("none",))
        _one_of("rhs_scale", self.rhs_scale, ("row", "group"))
        if self.table is not None and len(self.table) not in (2, 4, 8, 16):
            raise ValueError(f"Product.table has {len(self.table)} numbers; allowed: 2, 4, 8 or 16")

    @property
    def code_bits(self) -> int:
        """Bits of a code that has a table; 0 where there is none."""
        return len(self.table or (0,)).bit_length() - 1

    @property
    def decoded(self) -> "Product":
        """The product once codes with a table have been turned into the dtype `rhs`."""
        return replace(self, table=None)

    @property
    def sums(self) -> "Product":
        """The product without its epilogue: what that takes, in float32."""
        return replace(self, epilogue=NOTHING, out="float32") if self.epilogue else self

    @property
    def foreign(self) -> str | None:
        """Why no matrix unit of the kernels here takes the codes; None where one may."""
        bad = next((x for x in (self.lhs, self.rhs) if x in FOREIGN_FP8), None)
        return bad and f"{bad}: no matrix unit here multiplies it"


def fuses_nothing(product: Product) -> bool:
    """For `Kernel.fuses`: no epilogue."""
    return False


def fuses_all(product: Product) -> bool:
    """For `Kernel.fuses`: every epilogue, whatever the product."""
    return True


@dataclass(frozen=True)
class Chores:
    """What is done at every call before a kernel runs.

    Attributes:
        padded: the weight is filled up to whole groups.
        decoded: the name of the type that the weight is decoded from; "" where it is not.
        formula: the left operand is quantized by the formula, as XLA compiles it, and not by a
            kernel for rows.
    """

    padded: bool = False
    decoded: str = ""
    formula: bool = False


@dataclass(frozen=True)
class Kernel:
    """One way to compute products.

    Attributes:
        name: shown in plans.
        platforms: lowering platforms ("cpu", "cuda", "tpu"); empty means every platform.
        supports: Product -> None, or the reason for refusing it.
        run: (product, lhs `[B, M, K]`, lhs_scale f32 or None, rhs `[B, N, K]`, rhs_scale f32)
            -> `[B, M, N]` in `product.out`. Traceable; asked only for supported products. One
            that `fuses` gets the operands of the epilogue after these.
        run_stacked: the same where rhs is a layer of a stack that is read in place: (product, lhs,
            lhs_scale, stack `[S, B, N, K]`, stack_scale `[S, B, N, 1 or G]`, index int32 scalar).
            None: the layer is cut out and handed to `run`. Both give the same bits.
        run_joined: several products that share their left operand in one call: (products that
            differ in `n` at most, lhs, lhs_scale, for each the stack, its scales and the index) ->
            their results. None: they are computed one after another. Both give the same bits.
        reads: whether codes with a table (`Product.table`) are read as they are stored. All other
            products with one are decoded before this kernel is asked whether it supports them.
        local: calls compiled code of this machine. It is passed over where the program is exported
            or split over devices by the compiler.
        rows: a way to quantize the rows of left operands, whichever kernel of the table multiplies
            them; None: this kernel brings none.
        ragged: a way to compute ragged products (mixtures of experts); None: it has none.
        meant_for: whether the product is of the kind that this kernel is there for; others are
            passed over without a word.
        slow: (Product, `Chores`) -> what a plan should say where this may be slower than float; ""
            where it should not be, or nobody knows.
        nanoseconds: (Product, `Chores`) -> what it is expected to take, and what float32 would;
            None where nobody knows.
        fuses: whether `run` computes the product's epilogue as well. For all others it is applied
            to what they give in float32.
        configs: Product -> what `run` takes as `config=` for a supported product: frozen
            dataclasses of plain values, the one that `run` takes by itself first. Empty: `run`
            has no such argument. `qpass_kernels.tuning` picks among them by measuring.
    """

    name: str
    platforms: tuple[str, ...]
    supports: Callable[[Product], str | None]
    run: Callable[..., Any]
    run_stacked: Callable[..., Any] | None = None
    run_joined: Callable[..., Any] | None = None
    reads: Callable[[Product], bool] = lambda product: False
    local: bool = False
    rows: RowQuantizer | None = None
    ragged: RaggedMatmul | None = None
    meant_for: Callable[[Product], bool] = lambda product: True
    slow: Callable[[Product, Chores], str] = lambda product, chores: ""
    nanoseconds: Callable[[Product, Chores], tuple[float, float] | None] = lambda p, chores: None
    fuses: Callable[[Product], bool] = fuses_nothing
    configs: Callable[[Product], tuple[Any, ...]] = lambda product: ()


@dataclass(frozen=True)
class Selection:
    """The kernel chosen for a product.

    Attributes:
        kernel: the kernel.
        refused: those before it that refused, with their reasons.
        product: what it is asked for: without a table where it does not read that, without an
            epilogue where it does not fuse that.
    """

    kernel: Kernel
    refused: tuple[tuple[str, str], ...]
    product: Product


def run_whole(
    product: Product, run: Callable[..., Any], asked: Product, *operands: Any, **named: Any
) -> Any:
    """Run a kernel on the part of a product that it computes, and then what is left of it.

    Args:
        product: the whole product.
        run: `Kernel.run` or `Kernel.run_stacked`.
        asked: the part (`Selection.product`).
        *operands: what `run` takes, then those of `product.epilogue`.
        **named: for `run`.
    """
    if asked.epilogue == product.epilogue:
        return run(asked, *operands, **named)
    count = len(operands) - len(product.epilogue.operands)
    total = lax.optimization_barrier(run(asked, *operands[:count], **named))
    return finish(product.epilogue, total, operands[count:], dtype(product.out))


def select(kernels: Sequence[Kernel], platform: str, product: Product) -> Selection:
    """Take the first kernel of the platform that supports the product.

    Kernels of other platforms, or for products of another kind, are not listed as refusals.

    Raises:
        ValueError: no kernel in the table takes the product.
    """
    asked = ((k, asked_of(k, product)) for k in kernels if is_for(k, platform, product))
    return Selection(*first_of(asked, platform, product))


def first_of[T: (Kernel, RaggedMatmul)](
    candidates: Iterable[tuple[T, Any]], platform: str, product: Any
) -> tuple[T, tuple[tuple[str, str], ...], Any]:
    """Take the first candidate that supports what it is asked for.

    Returns:
        The candidate, those before it with their reasons, and what it is asked for.

    Raises:
        ValueError: there is none; names the platform and the whole product.
    """
    refused = []
    for candidate, asked in candidates:
        reason = candidate.supports(asked)
        if reason is None:
            return candidate, tuple(refused), asked
        refused.append((candidate.name, reason))
    raise ValueError(
        f"no kernel for {product} on {platform!r}: "
        + ("; ".join(f"{name}: {reason}" for name, reason in refused) or "none for this platform")
        + ". End the table with qpass_kernels.REFERENCE, which takes every product."
    )


def asked_of(kernel: Kernel, product: Product) -> Product:
    """Return the part of a product that a kernel is asked for (see `Selection.product`)."""
    asked = product if kernel.reads(product) else product.decoded
    return asked if kernel.fuses(asked) else asked.sums


def runs_on(kernel: Kernel, platform: str) -> bool:
    """Whether a kernel is one for a platform, as lowering or `jax.default_backend()` names it."""
    return not kernel.platforms or ALIASES.get(platform, platform) in kernel.platforms


def is_for(kernel: Kernel, platform: str, product: Product) -> bool:
    """Whether a kernel is to be asked at all: it runs there, and is meant for such products."""
    return runs_on(kernel, platform) and kernel.meant_for(product)


def portable(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """Return the kernels that may be exported, and split over devices by the compiler."""
    return tuple(kernel for kernel in kernels if not kernel.local)


def first_reason(*checks: tuple[Any, str]) -> str | None:
    """Return the text of the first check whose condition holds, or None."""
    return next((reason for failed, reason in checks if failed), None)


def dtype(name: str) -> Any:
    """Turn a dtype's name into the dtype (jax.numpy knows int4 and fp8, numpy may not)."""
    return jnp.dtype(getattr(jnp, name))


def result_type(product: Product, operands: Sequence[Any]) -> jax.ShapeDtypeStruct:
    """Describe a product's result, varying over the axes of a shard_map that an operand does."""
    types = [jax.typeof(x).manual_axis_type for x in operands if x is not None]
    varying = frozenset().union(*(t.varying for t in types))
    return jax.ShapeDtypeStruct(
        (product.batch, product.m, product.n),
        dtype(product.out),
        manual_axis_type=jax.sharding.ManualAxisType(varying=varying),
    )


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"Product.{field} is {value!r}; allowed here: {', '.join(allowed)}")
