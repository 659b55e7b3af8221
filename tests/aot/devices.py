"""Devices that are not there, as compilers see them, and programs compiled for them."""

from functools import cache
from pathlib import Path

import jax
import pytest
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding

from qpass_kernels.tuning.ptxas import compile_and_report

H200 = Path(__file__).parent / "data" / "h200.txtpb"
TPUS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "v7x": "tpu7x:2x2x1"}
HOW = "`make aot` installs the compiler and runs these tests"


@cache
def h200():
    """The H200's compiler; skips without its package, as the tests can then say nothing."""
    pytest.importorskip("jax_plugins.xla_cuda13", reason=HOW)
    return topologies.get_topology_desc(
        platform="cuda", target_config=H200.read_text(), topology="1x1x1"
    ).devices[0]


@cache
def tpu(generation):
    """The compiler for a TPU of a generation; skips where libtpu is missing."""
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=TPUS[generation]).devices[
            0
        ]
    except RuntimeError as error:
        pytest.skip(f"{HOW} ({error})")


def lower(device, fn, *args):
    """Trace and lower `fn` for a device; arguments need only shapes and dtypes."""
    platform = {"gpu": "cuda"}.get(device.platform, device.platform)
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SingleDeviceSharding(device)),
        args,
    )
    cores = 132 if platform == "cuda" else None
    kind = AbstractDevice(device.device_kind, cores, device.platform)
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=kind)):
        return jax.jit(fn).trace(*placed).lower(lowering_platforms=(platform,))


def assembled(fn, args, seen):
    """Compile for an H200; return what the assembler says of the kernels: nothing against any.

    There is no report of kernels that this process has compiled before, which `seen` holds.
    """
    device, lowered = h200(), []

    def compile():
        lowered.append(lower(device, fn, *args))
        return lowered[0].compile()

    _, reports = compile_and_report(compile)
    kernels = tuple(x for x in lowered[0].as_text().splitlines() if "mosaic_gpu" in x)
    assert kernels
    assert reports or kernels in seen
    seen.add(kernels)
    assert [report.fault for report in reports if report.fault] == []
    return reports


def shapes(p):
    """Operands of a product without their numbers: lhs, lhs_scale, rhs, rhs_scale.

    Of a ragged one the weights of all experts, and the sizes of these as well.
    """
    array, groups = jax.ShapeDtypeStruct, {"row": 1, "group": p.groups}
    ragged = hasattr(p, "experts")
    left, right = ((), (p.experts,)) if ragged else ((p.batch,), (p.batch,))
    lhs, rhs = array((*left, p.m, p.k), p.lhs), array((*right, p.n, p.k), p.rhs)
    lhs_scale = groups.get(p.lhs_scale) and array((*left, p.m, groups[p.lhs_scale]), "float32")
    rhs_scale = array((*right, p.n, groups[p.rhs_scale]), "float32")
    sizes = (array((p.experts,), "int32"),) if ragged else ()
    return lhs, lhs_scale, rhs, rhs_scale, *sizes
