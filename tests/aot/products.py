"""Products that every kernel is compiled for: few rows, many, and sizes that are no multiples."""

from qpass_bench.gpu.cases import CASES
from tests.kernels.oracle import product

SIZES = [  # m, n, k
    (1, 4096, 4096),
    (16, 14336, 4096),
    (64, 1024, 2048),
    (100, 1000, 576),  # a tail of everything
    (4096, 4096, 4096),
]
KINDS = [  # lhs, rhs, group, whether lhs is grouped as well
    ("bfloat16", "int8", None, False),
    ("bfloat16", "int4", None, False),
    ("bfloat16", "int8", 128, False),
    ("bfloat16", "int4", 128, False),
    ("float16", "int4", 32, False),
    ("bfloat16", "float8_e4m3fn", None, False),
    ("int8", "int8", None, False),
    ("int8", "int8", 128, True),
    ("int8", "int4", None, False),
    ("int8", "int4", 128, False),
    ("int8", "int4", 32, True),
    ("float8_e4m3fn", "float8_e4m3fn", None, False),
    ("float8_e4m3fn", "float8_e5m2", None, False),
    ("float8_e4m3fn", "float8_e4m3fn", 128, True),
]
PRODUCTS = [
    product(m, n, k, lhs, rhs, group=group, lhs_group=lhs_group, out="bfloat16")
    for m, n, k in SIZES
    for lhs, rhs, group, lhs_group in KINDS
] + [case.product for case in CASES]


def name(p):
    """A product in a few words, as a test's name."""
    group = f"-g{p.group}" if p.grouped else ""
    return f"{p.lhs}-{p.rhs}{group}-{p.m}x{p.n}x{p.k}"


def cases(kernels):
    """(kernel, product, number of its setting) for all that the kernels take, and their names."""
    found = [
        (kernel, p, number)
        for kernel in kernels
        for p in PRODUCTS
        if kernel.meant_for(p) and kernel.supports(p) is None
        for number in range(len(kernel.configs(p)) or 1)
    ]
    return found, [f"{kernel.name}-{name(p)}-{number}" for kernel, p, number in found]


def call(kernel, p, number):
    """The kernel in one of its settings, as a function of the operands."""
    configs = kernel.configs(p)
    chosen = {"config": configs[number]} if configs else {}
    return lambda *operands: kernel.run(p, *operands, **chosen)
