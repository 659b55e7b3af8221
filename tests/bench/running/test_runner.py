"""Running cases: rows against the best float, reasons for all that is missing, turns of peers."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from qpass.errors import QPassError
from qpass_bench.cases.catalogue import LLAMA_70B, Product, Transformer
from qpass_bench.cases.schemes import FLOATS, PRODUCT_VARIANTS
from qpass_bench.running import guests, runner, session
from qpass_bench.running.contenders import Contender, Entry, variants
from qpass_bench.running.roofline import Roofline, sampler
from qpass_bench.running.runner import Missing, Result, Settings, rows
from qpass_bench.running.session import Asked
from qpass_kernels.tuning.timing import take_turns
from tests.bench.running.test_worker import PEER, script

CASE = Product("tiny", "product", 2, 16, 8)
ROOF = Roofline({1000: 100.0}, {"float32": 1e3, "bfloat16": 1e3, "int8": 1e3}, 1.0)


def entry(name, kind="qpass", units="float32"):
    return Entry(name, kind, 100, units, "kernel", 0.5)


def everybody(name):
    return True


def result(*ran):
    """Of pairs of an entry and its seconds."""
    return Result(CASE, {e.name: e for e, _ in ran}, {e.name: seconds for e, seconds in ran})


def test_the_best_float_is_the_measure():
    found = result(
        (entry("float32", "float"), (9.0, 1.0, 9.0)),
        (entry("float32 [out, in]", "float"), (2.0, 3.0, 4.0)),
        (entry("int8", units="int8"), (1.0, 3.0, 1.0)),
        (entry("bfloat16", "float", "bfloat16"), (2.0,) * 3),
    )
    found = {row["variant"]: row for row in rows(found, ROOF)}
    assert {row["best_float32"] for row in found.values()} == {"float32 [out, in]"}
    assert found["int8"]["ratios"] == [2.0, 1.0, 4.0]
    assert found["int8"]["ratio"] == 2.0
    assert found["int8"]["ratio_bfloat16"] == 2.0
    assert found["int8"]["ms"] == 1000
    assert found["int8"]["of_roofline"] == pytest.approx(100 / 100 / 1.0)
    assert found["float32 [out, in]"]["ratio"] == 1


def test_without_a_float_there_is_no_ratio():
    (row,) = rows(result((entry("int8"), (1.0,))), ROOF)
    assert "ratio" not in row


def test_sittings_add_up_and_who_missed_one_is_missing():
    first = result((entry("a"), (1.0, 2.0)), (entry("b"), (1.0, 1.0)))
    second = Result(CASE, first.entries, {"a": (3.0, 4.0)}, (Missing("b", "died"),))
    both = first.and_then(second)
    assert both.seconds == {"a": (1.0, 2.0, 3.0, 4.0)}
    assert both.missing == (Missing("b", "died"),)


def test_a_turn_is_the_middle_of_several_calls():
    seconds = iter([0.004, 5.0, 1.0, 3.0])
    asked = []

    def call(calls):
        asked.append(calls)
        return [next(seconds) for _ in range(calls)]

    turn = Contender(entry("a"), call).turn(next(seconds))
    assert turn() == 3.0
    assert asked == [2]


def test_what_a_machine_cannot_hold_or_nobody_waits_for_is_skipped():
    large = Product("Llama-3-70B", "up", 1, 8192, 28672)
    assert "needs about 8.5 GB of memory; 1.0 GB are free" in runner.too_large(large, int(1e9))
    assert runner.too_large(large, int(9e9)) == ""
    assert "at least 9.4 s a call in float32" in runner.too_long(large, 1.0, fast(1e8))
    assert runner.too_long(large, 10.0, fast(1e8)) == ""


def fast(bandwidth):
    return Roofline({1000: bandwidth}, dict.fromkeys(("float32", "int8"), 1e15), 1.0)


def test_a_run_of_a_case():
    """Every variant has a row with a small error, or a reason; the report is JSON."""

    def guest(case, drawn, takes):
        yield Missing("absent", "has no time")
        yield Contender(entry("present", "Peer"), lambda calls: [1e-3] * calls)

    ticks = []
    probes = sampler(sizes=(2**16, 2**18), square=16)
    report = runner.run(
        [CASE], Settings(rounds=2, sittings=2), [guest], lambda: ticks.append(1), probes
    )
    report = json.loads(json.dumps(report))
    names = [row["variant"] for row in report["rows"]]
    assert set(names) >= {v.name for v in (*FLOATS, *PRODUCT_VARIANTS)} | {"present"}
    assert [(m["variant"], m["why"]) for m in report["missing"]] == [("absent", "has no time")]
    assert len(ticks) == 2
    for row in report["rows"]:
        assert 0 < row["ms_range"][0] <= row["ms"] <= row["ms_range"][1]
        assert len(row["ratios"]) == 2
        if row["kind"] != "Peer":
            assert row["error"] < 0.2
    assert {"cpu", "flags", "native", "qpass", "jax"} <= set(report["machine"])


def test_only_those_asked_for_take_part_beside_float32():
    asked = []

    def guest(case, drawn, takes):
        asked.extend(filter(takes, ("llama Q8_0", "llama F32")))
        yield from ()

    settings = Settings(rounds=1, sittings=1, only="w8a8$|q8_0")
    report = runner.run([CASE], settings, [guest], probes=sampler((2**16,), 16))
    ran = [row["variant"] for row in report["rows"]]
    assert ran == ["float32", "float32 [out, in]", "int8 W8A8"]
    assert asked == ["llama Q8_0"]


def test_nobody_waits_for_a_contender_that_is_far_too_slow():
    def guest(case, drawn, takes):
        yield Contender(entry("slow", "Peer"), lambda calls: [2.1] * calls)
        yield Contender(entry("fast", "Peer"), lambda calls: [1.9] * calls)

    settings = Settings(rounds=1, sittings=1, longest=1.0, only="slow|fast")
    report = runner.run([CASE], settings, [guest], probes=sampler((2**16,), 16))
    assert [row["variant"] for row in report["rows"] if row["kind"] == "Peer"] == ["fast"]
    (missing,) = report["missing"]
    assert missing["why"] == "takes 2.1 s a call, more than 2 times --longest"


@pytest.mark.parametrize(
    ("planned", "rounds"), [((), [2] * 3 + [5] * 3), (("slow here",), [2] * 3)]
)
def test_what_no_plan_said_is_measured_again_before_it_counts(monkeypatch, planned, rounds):
    """A scheme is slow when first timed, and fast in the turns after."""
    seconds = {"float32": [1.0] * 9, "float32 [out, in]": [2.0] * 9, "int8": [9.0] * 3 + [0.5] * 9}

    def line_up(case, drawn, guests, takes):
        for name, own in seconds.items():
            kind = "float" if name.startswith("float") else "qpass"
            yield Contender(
                replace(entry(name, kind), planned=planned), lambda calls, own=own: [own.pop(0)]
            )

    turns = []

    def counted(running, count):
        turns.extend([count] * len(running))
        return take_turns(running, count)

    monkeypatch.setattr(runner, "line_up", line_up)
    monkeypatch.setattr(runner, "take_turns", counted)
    settings = Settings(rounds=2, sittings=1, longest=9.0, again=5)
    report = runner.run([CASE], settings, probes=sampler((2**16,), 16))
    (own,) = (row for row in report["rows"] if row["kind"] == "qpass")
    assert turns == rounds
    assert own["rounds"] == len(own["ratios"]) == rounds[-1]
    assert own["ratio"] == (2.0 if not planned else pytest.approx(1 / 9))


def test_schemes_without_compiled_kernels_are_tried_where_there_are_some():
    names = [variant.name for variant in variants(CASE, kernels=())]
    assert not [name for name in names if "(XLA)" in name]


def test_a_case_that_fails_is_skipped_with_the_reason(monkeypatch):
    def fail(case):
        raise QPassError("no network")

    monkeypatch.setattr(runner, "draw", fail)
    report = runner.run([CASE], Settings(rounds=1), probes=sampler((2**16,), 16))
    assert report["rows"] == []
    assert report["skipped"][0]["why"] == "QPassError: no network"


def test_a_peer_takes_products_in_its_own_process():
    with guests.Guests() as invited:
        invited._start(script(PEER))
        (peer,) = invited.taking_part
        assert invited.about["echo"].startswith("1, ")
        (entered,) = peer(CASE, None, everybody)
        assert (entered.entry.name, entered.entry.bytes) == ("echo int8", 16)
        assert entered.turn(0.016)() == pytest.approx(0.016)
        (missing,) = peer(Product("a", "b", 1, 101, 1), None, everybody)
        assert "too large" in missing.why
        (missing,) = peer(Transformer(LLAMA_70B, "decode", 1), None, everybody)
        assert "KeyError: 'k'" in missing.why  # this peer takes products only


def test_only_the_model_of_the_demo_comes_as_a_file():
    told = guests.spelled(Transformer(LLAMA_70B, "decode", 1))
    assert told["sizes"]["width"] == LLAMA_70B.width
    assert "file" not in told


def test_a_peer_that_does_not_start_is_in_the_report():
    with guests.Guests() as invited:
        invited._start(script("raise SystemExit('broken')"))
    assert "broken" in invited.about["echo"]
    assert invited.taking_part == []


def test_qwix_takes_dense_layers():
    pytest.importorskip("qwix", reason="a peer that is not installed")
    drawn = runner.draw(CASE)
    found = [contender.entry for contender in guests.qwix(CASE, drawn, everybody)]
    assert [c.name for c in found] == list(guests.QWIX)
    assert all(c.error < 0.05 and c.bytes == 16 * 8 + 4 * 8 for c in found)
    (missing, _) = guests.qwix(Product("a", "b", 1, 8, 8, experts=2), None, everybody)
    assert "single dense layers" in missing.why


def test_what_was_asked_for():
    assert len(session.cases(Asked("sweep", shapes=7))) == 7
    every = session.cases(Asked("all"))
    assert {case.suite for case in every} == {"products", "blocks", "models"}
    assert Asked(quick=True).settings.rounds == session.QUICK_ROUNDS
    assert Asked("models").settings == session.DEFAULTS["models"]
    assert Asked("models", rounds=3, only="x").settings.rounds == 3
    with pytest.raises(QPassError, match="No case of products fits 'gpt': plain, SmolLM2"):
        session.cases(Asked(pattern="gpt"))


CAPPED = """
import os, sys
from pathlib import Path
import qpass.cli.bench
from qpass_bench.running import isa, session
def run(*args):
    print(isa.capped(), os.environ["XLA_FLAGS"], flush=True)
    os.environ["XLA_FLAGS"] += " --no_such_flag=1"
    import jax; jax.devices()
session.runner.run = run
asked = session.Asked("products", isa="avx2", peers=Path(sys.argv[1]))
assert not session.peers(asked)
session.run(asked, session.cases(asked))
"""


def test_a_cap_holds_kernels_and_xla_before_anything_runs(tmp_path):
    """In a process of its own: XLA reads its flags once, when a backend starts."""
    (tmp_path / "peers.json").write_text('{"somebody": ["true"]}')
    path = {"PYTHONPATH": os.pathsep.join(sys.path), "XLA_FLAGS": ""}
    run = subprocess.run(
        [sys.executable, "-c", CAPPED, str(tmp_path / "peers.json")],
        capture_output=True,
        text=True,
        env={**os.environ, **path},
    )
    assert run.stdout == "avx2 --xla_cpu_max_isa=AVX2\n"
    assert "no_such_flag" in run.stderr, "XLA had read its flags before"
