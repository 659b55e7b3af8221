"""What all peers of `bench/peers` share, with a library that only adds: no framework needed."""

import sys
from pathlib import Path

import numpy as np
import pytest

from qpass_bench.cases.products import draw
from qpass_bench.running.worker import Peer, PeerError, Worker, installed

PEERS = Path(__file__).parents[3] / "bench" / "peers"

LIBRARY = """
import os, sys
from protocol import Library, Loaded, THREADS, Unsupported, Variant, serve

def load(case, variant):
    if case["k"] > 100:
        raise Unsupported("too large")
    os.write(1, b"noise of a library")
    return Loaded(lambda: sum(range(1000)), case["k"], 0.25)

variants = {"a": Variant("as it comes", "float32"), "b": Variant("squeezed")}
serve(Library("adder", f"{THREADS} {os.environ.get('OMP_WAIT_POLICY')}", variants, load))
"""


@pytest.fixture
def worker():
    command = (sys.executable, "-c", f"import sys; sys.path.insert(0, '.'){LIBRARY}")
    with Worker(Peer("adder", command, PEERS), threads=3) as worker:
        yield worker


def test_it_says_who_it_is_and_how_it_is_set_up(worker):
    assert worker.about["name"] == "adder"
    assert worker.about["configured"] == {"a": "as it comes", "b": "squeezed"}
    assert worker.variants == ["a", "b"]


def test_threads_are_those_asked_for_and_may_spin_in_their_own_turn(worker):
    assert worker.about["threads"] == 3
    assert worker.about["version"] == "3 None"


def test_a_case_comes_with_its_size_its_error_and_what_multiplies(worker):
    loaded = worker.load({"k": 8}, "a")
    assert loaded.pop("seconds") > 0
    assert loaded == {"bytes": 8, "error": 0.25, "units": "float32"}
    assert worker.load({"k": 9}, "b")["units"] == "int8"


def test_every_call_is_timed_and_variants_are_held_together(worker):
    worker.load({"k": 8}, "a")
    worker.load({"k": 8}, "b")
    for variant in ("a", "b"):
        seconds = worker.run(4, variant)
        assert len(seconds) == 4
        assert all(0 < second < 1 for second in seconds)


def test_a_case_that_a_library_refuses_or_that_was_dropped(worker):
    with pytest.raises(PeerError, match="Unsupported: too large"):
        worker.load({"k": 101}, "a")
    worker.load({"k": 1}, "a")
    worker.unload()
    with pytest.raises(PeerError, match="KeyError"):
        worker.run(1, "a")


def test_all_peers_of_the_checkout_are_listed():
    listed = installed(PEERS / "peers.json")
    assert {peer.command[-1] for peer in listed} == {path.name for path in PEERS.glob("*_peer.py")}
    assert {peer.folder for peer in listed} == {PEERS}


def test_peers_draw_the_numbers_that_we_draw(monkeypatch):
    monkeypatch.syspath_prepend(PEERS)
    import products as theirs

    from qpass_bench.cases.catalogue import Product, describe

    case = Product("plain", "product", 3, 5, 7, experts=2, seed=11)
    for own, drawn in zip(draw(case), theirs.draw(describe(case)), strict=True):
        np.testing.assert_array_equal(own, drawn)


def test_errors_of_peers_are_relative_to_float64(monkeypatch):
    monkeypatch.syspath_prepend(PEERS)
    import products as theirs

    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((50, 200)), rng.standard_normal((90, 50))
    assert theirs.distance(weight, x, x @ weight) == pytest.approx(0, abs=1e-12)
    assert theirs.distance(weight, x, 1.5 * (x @ weight)) == pytest.approx(0.5)
