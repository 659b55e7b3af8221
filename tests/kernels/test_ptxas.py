"""What is read out of the assembler's reports: their lines as ptxas of CUDA 13 writes them."""

import os

import pytest

from qpass_kernels.tuning.ptxas import SHARED_LIMIT, compile_and_report, read

GOOD = """ptxas info    : Compiling entry function 'k_mosaic_gpu_kernel' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 96 registers, used 2 barriers, 1 bytes smem
"""
SPILLS = GOOD.replace("0 bytes spill stores, 0 bytes", "112 bytes spill stores, 236 bytes")
SERIAL = GOOD + "ptxas info : (C7510) Potential Performance Loss: wgmma.mma_async instructions are "
PTX = """wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%f1};
wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {%r1};
"""
MEMORY = "Resources(smem_scratch_bytes=35840, tmem_scratch_cols=0)"


def test_what_is_read():
    report = read("k", GOOD, PTX, MEMORY)
    assert (report.registers, report.spilled, report.shared) == (96, 0, 35840)
    assert report.products == ("f32.bf16.bf16", "s32.s8.s8")
    assert report.fault is None


@pytest.mark.parametrize(
    ("ptxas", "memory", "fault"),
    [
        (SPILLS, MEMORY, "spills 348 bytes"),
        (SERIAL + "serialized due to a function call", MEMORY, "serialized"),
        (GOOD, MEMORY.replace("35840", str(SHARED_LIMIT + 8)), "shared memory"),
    ],
)
def test_faults(ptxas, memory, fault):
    assert fault in read("k", ptxas, PTX, memory).fault


def test_a_report_of_another_form_is_an_error():
    with pytest.raises(ValueError, match="no registers"):
        read("k", "Registers: 96", PTX, MEMORY)


def test_reports_come_from_a_folder_of_their_own(monkeypatch):
    monkeypatch.setenv("MOSAIC_GPU_DUMP_TO", "before")

    def compile():
        folder = os.environ["MOSAIC_GPU_DUMP_TO"]
        for name, text in (("ptxas", GOOD), ("ptx", PTX), ("mlir", "")):
            with open(f"{folder}/k_1.{name}", "w") as file:
                file.write(text)
        for number, size in enumerate((1024, 2048)):
            with open(f"{folder}/k_{number}.resources.txt", "w") as file:
                file.write(MEMORY.replace("35840", str(size)))
        return "compiled"

    done, (report,) = compile_and_report(compile)
    assert (done, report.name, report.shared) == ("compiled", "k_1", 2048)
    assert os.environ["MOSAIC_GPU_DUMP_TO"] == "before"
    assert "MOSAIC_GPU_DUMP_PTX" not in os.environ
