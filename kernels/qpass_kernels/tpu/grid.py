"""The blocked product that the TPU kernels share: a grid, a sum over K, scales, tails."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from qpass_kernels.epilogue import apply
from qpass_kernels.kernel import Product, result_type
from qpass_kernels.tpu.blocks import LANES, Config, vmem
from qpass_kernels.tpu.chip import here

UNROLLED = 64  # rows up to which parts of K are so small that one has to start while others run


@dataclass(frozen=True)
class Arithmetic:
    """What a kernel does with a part of K.

    Attributes:
        dot: (x `[m, k]`, w `[n, k]`, group scales `[g, n]` of the weight or None) -> `[m, n]`.
            There are scales where the config asks for them before the product.
        sums: int32 or float32, the type of what `dot` returns.
    """

    dot: Callable[..., Any]
    sums: Any


@dataclass(frozen=True)
class Blocks:
    """A product cut by a config, and what follows from both."""

    product: Product
    config: Config
    arithmetic: Arithmetic

    @cached_property
    def steps(self) -> int:
        """Blocks along K."""
        return -(-self.product.k // self.config.k)

    @cached_property
    def last(self) -> int:
        """Elements of K that the last of them holds."""
        return self.product.k - (self.steps - 1) * self.config.k

    @cached_property
    def part(self) -> int:
        """Elements of K that are multiplied before anything is scaled."""
        after = self.product.grouped and not self.config.before
        return min(self.config.k, self.product.group) if after else self.config.k

    @cached_property
    def groups(self) -> int:
        """Groups of a block; 1 where a group is longer."""
        return max(1, self.config.k // self.product.group)

    @cached_property
    def sums(self) -> Any:
        """Type of the sum over K: groups are added up after they were scaled."""
        return jnp.float32 if self.product.grouped else self.arithmetic.sums

    @cached_property
    def turned(self) -> tuple[int, int, int]:
        """Shape of the weight's group scales: those of a block or of a longer group, by columns."""
        blocks = -(-self.product.groups // self.groups)
        return blocks, self.groups, self.config.n

    @property
    def scratch(self) -> list[Any]:
        """Memory for the sums, and for group scales of the weight."""
        sums = pltpu.VMEM((self.config.m, self.config.n), self.sums)
        grouped = self.product.rhs_scale == "group"
        return [sums, pltpu.VMEM(self.turned, jnp.float32)] if grouped else [sums]


def call(
    product: Product,
    config: Config,
    arithmetic: Arithmetic,
    operands: tuple,
    index: Any,
    interpret: Any,
) -> Any:
    """Multiply lhs `[B, M, K]` by layer `index` of a stack `[S, B, N, K]`: `[B, M, N]`.

    Args:
        product: what is computed; only groups of a multiple of 128 have scales on lhs.
        config: block sizes.
        arithmetic: the kernel's own part.
        operands: lhs, lhs_scale or None, stack, stack_scale, then what the epilogue asks for.
        index: int32 scalar.
        interpret: True or a `pltpu.InterpretParams` runs on any platform.
    """
    blocks = Blocks(product, config, arithmetic)
    arrays, specs = with_blocks(product, config, *operands[:4])
    extra, extra_specs = _with_extra(product, config, operands[4:])
    own, after = len(arrays), len(arrays) + len(extra)

    def kernel(_: Any, *refs: Any) -> None:
        finish = partial(_finish, product, refs[own:after])
        body(blocks, pl.program_id(3), (*refs[:own], *refs[after:]), finish)

    out = result_type(product, (*operands, index))
    grid = (product.batch, pl.cdiv(product.m, config.m), pl.cdiv(product.n, config.n), blocks.steps)
    return pl.pallas_call(
        kernel,
        out_shape=out,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[*specs, *extra_specs],
            out_specs=pl.BlockSpec((None, config.m, config.n), lambda b, i, j, k, _: (b, i, j)),
            scratch_shapes=blocks.scratch,
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=memory_limit(product, config),
        ),
        interpret=interpret,
        name=f"qpass_{product.lhs}_{product.rhs}",
    )(jnp.reshape(index, (1,)), *arrays, *extra)


def memory_limit(product: Product, config: Config) -> int:
    """Bytes of a core's memory that a kernel asks for."""
    return min(vmem(product, config) * 5 // 4, here().vmem)


def with_blocks(
    product: Product, config: Config, lhs: Any, lhs_scale: Any, stack: Any, stack_scale: Any
) -> tuple[list, list]:
    """Arrays and their blocks: x, w, x scale unless there is none, w scale.

    A column of scales is handed over as a row, which changes nothing in memory; as a column each
    number would take 128 lanes there.
    """
    m, n, k = config.m, config.n, config.k
    arrays = [lhs, stack]
    specs = [
        pl.BlockSpec((None, m, k), lambda b, i, j, k, _: (b, i, k)),
        pl.BlockSpec((None, None, n, k), lambda b, i, j, k, layer: (layer[0], b, j, k)),
    ]
    if product.lhs_scale == "row":
        arrays.append(jnp.swapaxes(lhs_scale, 1, 2))
        specs.append(pl.BlockSpec((None, 1, m), lambda b, i, j, k, _: (b, 0, i)))
    elif product.lhs_scale == "group":
        arrays.append(lhs_scale)
        specs.append(pl.BlockSpec((None, m, product.groups), lambda b, i, j, k, _: (b, i, 0)))
    if product.rhs_scale == "row":
        arrays.append(jnp.swapaxes(stack_scale, 2, 3))
        spec = pl.BlockSpec((None, None, 1, n), lambda b, i, j, k, layer: (layer[0], b, 0, j))
    else:
        arrays.append(stack_scale)
        whole = (None, None, n, product.groups)
        spec = pl.BlockSpec(whole, lambda b, i, j, k, layer: (layer[0], b, j, 0))
    return arrays, [*specs, spec]


def _with_extra(product: Product, config: Config, extra: tuple) -> tuple[list, list]:
    """What the epilogue asks for, and its blocks; the bias as a row."""
    m, n = config.m, config.n
    row = pl.BlockSpec((None, 1, n), lambda b, i, j, k, _: (b, 0, j))
    block = pl.BlockSpec((None, m, n), lambda b, i, j, k, _: (b, i, j))
    named = list(zip(product.epilogue.operands, extra, strict=True))
    arrays = [x[:, None, :] if name == "bias" else x for name, x in named]
    return arrays, [row if name == "bias" else block for name, _ in named]


def _finish(product: Product, extra: tuple, out: Any, total: Any) -> None:
    """Apply the epilogue to a block of the result, and write it."""
    store(out, apply(product.epilogue, total, (x[...].astype(jnp.float32) for x in extra)))


def store(out: Any, total: Any) -> None:
    """Write a block of the result."""
    out[...] = total.astype(out.dtype)


def body(blocks: Blocks, step: Any, refs: tuple, store: Callable[[Any, Any], None]) -> None:
    """One step along K for a block of the result, which `store` writes in the end.

    `refs`: x, w, x scale unless there is none, w scale, result, sums, turned w scale if it is
    grouped.
    """
    x, w, *rest = refs
    product = blocks.product
    refs = tuple(rest) if product.lhs_scale != "none" else (None, *rest)
    refs = refs if product.rhs_scale == "group" else (*refs, None)
    x_scale, w_scale, out, acc, w_groups = refs

    @pl.when(step == 0)
    def _() -> None:
        acc[...] = jnp.zeros_like(acc)
        if w_groups is not None:
            _turn(blocks, w_scale, w_groups)

    def add(held: int) -> None:
        x_groups = x_scale if product.lhs_scale == "group" else None
        _add(blocks, step, held, x, w, x_groups, w_groups, acc)

    if blocks.last == blocks.config.k:
        add(blocks.config.k)
    else:
        if blocks.steps > 1:
            pl.when(step < blocks.steps - 1)(lambda: add(blocks.config.k))
        pl.when(step == blocks.steps - 1)(lambda: add(blocks.last))

    @pl.when(step == blocks.steps - 1)
    def _() -> None:
        total = acc[...].astype(jnp.float32)
        total = total * x_scale[...].T if product.lhs_scale == "row" else total
        total = total * w_scale[...] if product.rhs_scale == "row" else total
        store(out, total)


def _turn(blocks: Blocks, scale: Any, turned: Any) -> None:
    """Lay the scales `[n, G]` of a block of columns out as the product needs them, once.

    They lie along the lanes then, as the columns of a result do. Scales of groups beyond the last
    one are zero.
    """
    rows = scale[...].T
    for i in range(turned.shape[0]):
        some = rows[i * blocks.groups : (i + 1) * blocks.groups]
        turned[i, : some.shape[0]] = some
        if some.shape[0] < blocks.groups:
            rest = (blocks.groups - some.shape[0], rows.shape[1])
            turned[i, some.shape[0] :] = jnp.zeros(rest, jnp.float32)


def _add(
    blocks: Blocks, step: Any, held: int, x: Any, w: Any, x_groups: Any, w_groups: Any, acc: Any
) -> None:
    """Add the product of a block, whose first `held` elements of K there are."""
    config, group = blocks.config, blocks.product.group
    after = blocks.product.rhs_scale == "group" and not config.before

    def add_part(start: Any, held: int) -> None:
        x_part, w_part = (y[:, pl.ds(start, blocks.part)] for y in (x, w))
        x_part = _kept(x_part, held)
        # whatever integers lie there, zeros of x hide them
        w_part = w_part if jnp.issubdtype(w.dtype, jnp.integer) else _kept(w_part, held)
        scale = w_groups[step] if config.before else None
        total = blocks.arithmetic.dot(x_part, w_part, scale).astype(acc.dtype)
        if x_groups is not None:
            total = total * _column(x_groups[...], lax.div(step * config.k + start, group))
        if after:
            block, row = lax.div(step * config.k, blocks.groups * group), lax.div(start, group)
            total = total * w_groups[block, pl.ds(row, 1)]
        acc[...] += total

    whole, rest = divmod(held, blocks.part)
    for_each(whole, blocks.part, lambda start: add_part(start, blocks.part), config.m <= UNROLLED)
    if rest:
        add_part(whole * blocks.part, rest)


def for_each(count: int, size: int, do: Callable[[Any], None], unroll: bool) -> None:
    """Call with the start of every part."""
    if unroll or count == 1:
        for part in range(count):
            do(part * size)
    else:
        lax.fori_loop(0, count, lambda part, _: do(pl.multiple_of(part * size, LANES)), None)


def _kept(x: Any, held: int) -> Any:
    """Zeros for what lies beyond the edge of K, where anything may be, NaN among it.

    In 32 bits: Mosaic masks no single row of narrower numbers.
    """
    if held >= x.shape[1]:
        return x
    wide = x.astype(jnp.int32 if jnp.issubdtype(x.dtype, jnp.integer) else jnp.float32)
    position = lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where(position < held, wide, 0).astype(x.dtype)


def _column(x: Any, index: Any) -> Any:
    """A column that only the running program knows, without moving lanes by a variable."""
    chosen = lax.broadcasted_iota(jnp.int32, x.shape, 1) == index
    return jnp.sum(jnp.where(chosen, x, 0), axis=1, keepdims=True)


def contract(x: Any, w: Any, axis: int, **params: Any) -> Any:
    """`x [m, k]` times `w`, whose axis `axis` is k."""
    return jax.lax.dot_general(x, w, (((1,), (axis,)), ((), ())), **params)
