"""A table of kernels that heeds what was measured.

What stands in the place of a kernel's functions are values that compare equal where the kernel and
the measurements do, so that a program is not traced again for an equal table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qpass_kernels.kernel import Kernel, Product, is_for
from qpass_kernels.tuning.choice import fields_of

if TYPE_CHECKING:
    from qpass_kernels.tuning.table import Tuned


def bind(table: Sequence[Kernel], tuned: Tuned) -> tuple[Kernel, ...]:
    """Return the table with the choices in it; see `Tuned.kernels`."""
    table = tuple(table)
    return tuple(_bound(kernel, table, tuned) for kernel in table)


def _bound(kernel: Kernel, table: tuple[Kernel, ...], tuned: Tuned) -> Kernel:
    if kernel.platforms != (tuned.platform,):
        return kernel
    stacked = kernel.run_stacked
    return dataclasses.replace(
        kernel,
        supports=Supports(kernel, table, tuned),
        run=Run(kernel, kernel.run, tuned),
        run_stacked=stacked and Run(kernel, stacked, tuned),
    )


@dataclass(frozen=True)
class Supports:
    """What the kernel takes, but for what another one of the table does faster."""

    kernel: Kernel
    table: tuple[Kernel, ...]
    tuned: Tuned

    def __call__(self, product: Product) -> str | None:
        """Say why not; None where the kernel is the one for the product."""
        reason = self.kernel.supports(product)
        if reason is not None:
            return reason
        choice = self.tuned.choice(product)
        if choice is None or choice.kernel == self.kernel.name or not self._has(choice, product):
            return None
        return f"measured slower here than {choice.kernel}"

    def _has(self, choice: Any, product: Product) -> bool:
        """Whether the table has the faster kernel, for this very product."""
        fitting = [
            kernel
            for kernel in self.table
            if kernel.name == choice.kernel and is_for(kernel, self.tuned.platform, product)
        ]
        return any(kernel.supports(product) is None for kernel in fitting)


@dataclass(frozen=True)
class Run:
    """The kernel with the setting that was measured to be fastest for the product."""

    kernel: Kernel
    function: Callable[..., Any]
    tuned: Tuned

    def __call__(self, product: Product, *operands: Any, **named: Any) -> Any:
        """Compute the product."""
        config = chosen_config(self.kernel, self.tuned, product)
        if config is not None:
            named["config"] = config
        return self.function(product, *operands, **named)


def chosen_config(kernel: Kernel, tuned: Tuned, product: Product) -> Any:
    """Return the kernel's own setting that was chosen; None for the one that it takes by itself.

    A setting that the kernel does not offer (any more, or for just this m) is passed over.
    """
    choice = tuned.choice(product)
    if choice is None or choice.kernel != kernel.name or choice.config is None:
        return None
    return next((c for c in kernel.configs(product) if fields_of(c) == choice.config), None)
