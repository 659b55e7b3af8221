"""The roof: which of two times is the longer, and that a machine has one."""

import pytest

from qpass_bench.running.roofline import Roofline, Sampler, read_report, sampler

ROOF = Roofline({1000: 100.0, 100_000: 10.0}, {"float32": 50.0, "int8": 200.0}, copy=5.0)


def test_bandwidth_is_that_of_the_size():
    assert ROOF.bandwidth(1000) == ROOF.bandwidth(1) == 100
    assert ROOF.bandwidth(1e9) == 10
    assert ROOF.bandwidth(10_000) == pytest.approx(55)


def test_the_longer_time_binds():
    assert ROOF.bound(held=1e6, moved=20.0, ops=50.0, units="float32") == (2.0, "memory")
    assert ROOF.bound(held=1e6, moved=20.0, ops=800.0, units="int8") == (4.0, "compute")


def test_a_report_is_read_back():
    assert read_report(ROOF.report()) == ROOF


def test_samples_are_medians_of_the_best_probe():
    speeds = {"a": [1.0, 9.0, 2.0], "b": [3.0, 1.0, 4.0]}
    probes = {"peak int8": (lambda: speeds["a"].pop(0), lambda: speeds["b"].pop(0))}
    found = Sampler({**probes, "copy": (lambda: 7.0,), "read 8": (lambda: 6.0,)})
    for _ in range(3):
        found.sample()
    assert found.roofline() == Roofline({8: 6.0}, {"int8": 4.0}, 7.0)


def test_this_machine_has_a_roof():
    found = sampler(sizes=(2**16, 2**18), square=32)
    found.sample()
    roof = found.roofline()
    assert set(roof.reads) == {2**16, 2**18}
    assert all(speed > 1e6 for speed in (*roof.reads.values(), *roof.peaks.values(), roof.copy))
