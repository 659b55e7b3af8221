"""Every kernel's settings: plain, different, and the first and the last of them lower.

`make aot` compiles all of them.
"""

import dataclasses

import jax
import pytest

from qpass_kernels import KERNELS
from tests.kernels.oracle import operands, product

PRODUCTS = [
    product(1, 1024, 512, "bfloat16", "int4", group=128, out="bfloat16"),
    product(200, 320, 576, "int8", "int8"),
    product(200, 256, 512, "float8_e4m3fn", "float8_e4m3fn", group=128, lhs_group=True),
]
CASES = [
    (kernel, p)
    for kernel in KERNELS
    for p in PRODUCTS
    if kernel.meant_for(p) and kernel.supports(p) is None and kernel.configs(p)
]
NAMES = [f"{kernel.name}-{p.lhs}-{p.rhs}-{p.m}" for kernel, p in CASES]


@pytest.mark.parametrize(("kernel", "p"), CASES, ids=NAMES)
def test_settings_are_plain_and_different(kernel, p):
    configs = kernel.configs(p)
    assert len(set(configs)) == len(configs)
    for config in configs:
        values = dataclasses.asdict(config).values()
        assert all(x is None or isinstance(x, int | str | bool) for x in values)


@pytest.mark.parametrize(("kernel", "p"), CASES, ids=NAMES)
def test_the_first_and_the_last_setting_lower(kernel, p):
    configs = kernel.configs(p)
    for config in {configs[0], configs[-1]}:
        run = jax.jit(lambda *a, config=config: kernel.run(p, *a, config=config))
        lowered = run.trace(*operands(p)).lower(lowering_platforms=kernel.platforms)
        assert "custom_call" in lowered.as_text()
