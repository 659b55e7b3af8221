"""Kernels for TPU differ in what they take, how they cut it, and what they do with a part of K."""

from collections.abc import Callable
from typing import Any

from qpass_kernels.kernel import Kernel, Product, fuses_all
from qpass_kernels.stacks import alone
from qpass_kernels.tpu.blocks import Config
from qpass_kernels.tpu.grid import Arithmetic, call
from qpass_kernels.tpu.ragged import by_visits


def of_blocks(
    name: str,
    meant_for: Callable[[Product], bool],
    supports: Callable[[Product], str | None],
    configs: Callable[[Product], tuple[Config, ...]],
    arithmetic: Callable[[Product], Arithmetic],
) -> Kernel:
    """A kernel that walks over blocks; its fields mean what they do in `Kernel`.

    `run` and `run_stacked` take `config=`, one of `configs(product)` or None for the first, and
    `interpret=`: True or a `pltpu.InterpretParams` runs on any platform.

    Args:
        name: the kernel's.
        meant_for: which products it is there for.
        supports: why it refuses one.
        configs: ways to cut a supported product, the default first.
        arithmetic: what it does with a part of K.
    """

    def run_stacked(
        product: Product,
        lhs: Any,
        lhs_scale: Any,
        stack: Any,
        stack_scale: Any,
        index: Any,
        *extra: Any,
        config: Config | None = None,
        interpret: Any = False,
    ) -> Any:
        operands = (lhs, lhs_scale, stack, stack_scale, *extra)
        chosen = config or configs(product)[0]
        return call(product, chosen, arithmetic(product), operands, index, interpret)

    return Kernel(
        name,
        ("tpu",),
        supports,
        alone(run_stacked),
        run_stacked,
        meant_for=meant_for,
        fuses=fuses_all,
        configs=configs,
        ragged=by_visits(name, supports, configs, arithmetic),
    )
