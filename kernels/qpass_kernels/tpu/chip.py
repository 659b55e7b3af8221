"""What the generation of TPU that a program is lowered for can do."""

from dataclasses import dataclass

from jax.experimental.pallas import tpu as pltpu

MB = 1 << 20


@dataclass(frozen=True)
class Chip:
    """The abilities that kernels here ask for.

    Attributes:
        name: as in "TPU v5e".
        columns: elements of K that the matrix unit adds up at once. A product of fewer leaves a
            part of it idle.
        int8, fp8: whether such codes are multiplied faster than bfloat16.
        vmem: bytes of memory that a core multiplies from.
    """

    name: str
    columns: int
    int8: bool
    fp8: bool
    vmem: int


# Where a program is lowered for a TPU of which nobody has said which one: what compiles for all.
UNKNOWN = Chip("TPU", columns=128, int8=True, fp8=True, vmem=64 * MB)


def here() -> Chip:
    """The chip of the abstract device if there is one, else the default device's; or UNKNOWN.

    `jax.sharding.use_abstract_mesh` with an `AbstractDevice` says which one a program is lowered
    for on a machine that has none.
    """
    try:
        info = pltpu.get_tpu_info()
    except ValueError:  # no TPU
        return UNKNOWN
    return Chip(
        name=f"TPU {info.chip_version}",
        columns=info.mxu_column_size,
        int8=info.int8_ops_per_second > info.bf16_ops_per_second,
        fp8=info.fp8_ops_per_second > info.bf16_ops_per_second,
        vmem=info.vmem_capacity_bytes,
    )
