"""Products that every kernel is compiled for: few rows, many, and sizes that are no multiples."""

from qpass_bench.gpu.cases import CASES
from qpass_kernels import Product, RaggedProduct
from tests.kernels.oracle import product
from tests.kernels.ragged_oracle import ragged

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
TIMED = [case.product for case in CASES]
FAR = [(16, 14336, 4096), (4096, 4096, 4096)]  # sizes whose other settings are compiled too
PRODUCTS = [
    product(m, n, k, lhs, rhs, group=group, lhs_group=lhs_group, out="bfloat16")
    for m, n, k in SIZES
    for lhs, rhs, group, lhs_group in KINDS
] + [p for p in TIMED if isinstance(p, Product)]
RAGGED_SIZES = [(8, 1536, 2048, 128), (4096, 1536, 2048, 128), (4096, 14336, 4096, 8)]
RAGGED = [
    ragged(m, n, k, experts, lhs, rhs, group=group, lhs_group=lhs_group, out="bfloat16")
    for m, n, k, experts in RAGGED_SIZES
    for lhs, rhs, group, lhs_group in KINDS
] + [p for p in TIMED if isinstance(p, RaggedProduct)]


def name(p):
    """A product in a few words, as a test's name."""
    group = f"-g{p.group}" if p.grouped else ""
    experts = f"x{p.experts}" if hasattr(p, "experts") else ""
    return f"{p.lhs}-{p.rhs}{group}-{p.m}x{p.n}x{p.k}{experts}"


def cases(kernels, *, closely=False):
    """(kernel, product, number of its setting) for what the kernels take, and their names.

    The default of each; `closely`: for a few sizes, and those that are timed on a GPU, also the
    settings that ask most of a device.
    """
    found = [
        (kernel, p, number)
        for kernel in kernels
        for p in PRODUCTS
        if kernel.meant_for(p) and kernel.supports(p) is None
        for number in (ends(kernel.configs(p)) if closely and _is_looked_at(p) else [0])
    ]
    return found, [f"{kernel.name}-{name(p)}-{number}" for kernel, p, number in found]


def ragged_cases(kernels):
    """(ragged kernel, ragged product, 0 for its default setting), and their names."""
    takes = [(p, [k.ragged for k in kernels if _takes(k.ragged, p)]) for p in RAGGED]
    found = [(ragged[0], p, 0) for p, ragged in takes if ragged]
    return found, [f"{kernel.name}-{name(p)}" for kernel, p, _ in found]


def _takes(ragged_kernel, p):
    return ragged_kernel is not None and ragged_kernel.supports(p) is None


def _is_looked_at(p):
    return (p.m, p.n, p.k) in FAR or p in TIMED


def ends(configs):
    """Numbers of the default, of the largest tile, and of the last setting."""
    sizes = [config.m * getattr(config, "n", 1) * config.k for config in configs] or [0]
    return sorted({0, sizes.index(max(sizes)), len(sizes) - 1})


def call(kernel, p, number):
    """The kernel in one of its settings, as a function of the operands."""
    configs = kernel.configs(p)
    chosen = {"config": configs[number]} if configs else {}
    return lambda *operands: kernel.run(p, *operands, **chosen)


def config(kernel, p, number):
    """A setting as text; nothing where the kernel has none."""
    configs = kernel.configs(p)
    return str(configs[number]) if configs else ""


def found(reports):
    """What of the assembler's reports goes into the record of a case."""
    fields = ("registers", "spilled", "shared", "products")
    return {"kernels": [{field: getattr(report, field) for field in fields} for report in reports]}
