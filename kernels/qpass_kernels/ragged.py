"""Ragged products, as in mixtures of experts: what they are, and what computes them.

Rows of one operand are sorted by expert, and each is multiplied by the weight of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from qpass_kernels.contraction import Contraction


@dataclass(frozen=True)
class RaggedProduct(Contraction):
    """`out[i, n] = sum_k lhs[i, k] * rhs[e(i), n, k]`, each operand times its scales.

    Rows of an expert are consecutive: the first `group_sizes[0]` are those of expert 0, and so on.
    Rows beyond the sum of the sizes are zero in the result, whatever they hold; an expert may have
    no row. Dtypes, `group` and the layouts of scales mean what they do in `Product`.

    Attributes:
        m, n, k, experts: sizes; `m` may be symbolic.
        lhs: dtype name of the left operand: int8 or fp8 codes, or a float (weight-only).
        rhs: dtype name of the right codes; float32 where they have been decoded beforehand.
        out: dtype name of the result.
        group: elements of K that share a scale; `k` where no operand is grouped.
        lhs_scale: "none" (float lhs), "row" (`[M, 1]`) or "group" (`[M, G]`).
        rhs_scale: "row" (`[E, N, 1]`) or "group" (`[E, N, G]`), with `G = ceil(k / group)`.
        table: as in `Product`: what codes that come as they are stored stand for.
    """

    m: Any
    n: int
    k: int
    experts: int
    lhs: str
    rhs: str
    out: str
    group: int
    lhs_scale: Literal["none", "row", "group"]
    rhs_scale: Literal["row", "group"]
    table: tuple[float, ...] | None = None

    @property
    def decoded(self) -> "RaggedProduct":
        """The product once codes with a table have been turned into the dtype `rhs`."""
        return replace(self, table=None)


@dataclass(frozen=True)
class RaggedMatmul:
    """One way to compute ragged products, attached to a kernel as `Kernel.ragged`.

    Attributes:
        name: shown in plans.
        supports: RaggedProduct -> None, or the reason for refusing it.
        run: (product, lhs `[M, K]`, lhs_scale f32 `[M, 1 or G]` or None, rhs `[E, N, K]`, rhs_scale
            f32 `[E, N, 1 or G]`, group_sizes int32 `[E]`) -> `[M, N]` in `product.out`. Traceable;
            asked only for supported products.
        reads: RaggedProduct -> whether codes with a table are read as they are stored; for all
            others they are decoded before.
        skips: whether experts without a row cost nothing, so that the layers of a stack may be
            handed over as experts, all but one layer's without a row.
        configs: RaggedProduct -> what `run` takes as `config=`, as in `Kernel.configs`.
    """

    name: str
    supports: Callable[[RaggedProduct], str | None]
    run: Callable[..., Any]
    reads: Callable[[RaggedProduct], bool] = lambda product: False
    skips: bool = False
    configs: Callable[[RaggedProduct], tuple[Any, ...]] = lambda product: ()
