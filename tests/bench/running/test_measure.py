"""The clock, with a clock of its own."""

import pytest

from qpass_bench.running.measure import Timing, interleaved


class Clock:
    """Time that passes only when a contestant works."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def work(self, name, seconds):
        def call():
            self.log.append(name)
            self.now += seconds.pop(0)
            return name

        return call

    def __call__(self):
        return self.now


def test_contestants_take_turns_and_each_follows_every_other():
    clock = Clock()
    calls = {name: clock.work(name, [1.0] * 31) for name in "abc"}
    interleaved(calls, rounds=30, clock=clock)
    warm, log = "".join(clock.log[:3]), "".join(clock.log[3:])
    rounds = [log[i : i + 3] for i in range(0, 90, 3)]
    assert warm == "abc"
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    following = {one[i : i + 2] for one in rounds for i in (0, 1)}
    assert following == {"ab", "ac", "ba", "bc", "ca", "cb"}


def test_warming_up_is_not_timed():
    clock = Clock()
    timing = interleaved({"a": clock.work("a", [100.0, 1.0, 3.0, 2.0])}, rounds=3, clock=clock)["a"]
    assert timing.seconds == (1.0, 3.0, 2.0)
    assert timing.median == 2.0
    assert timing.spread == (1.0, 3.0)


def test_ratio_is_taken_round_by_round():
    """A machine that slows down in one round slows both; the ratio does not notice."""
    clock = Clock()
    calls = {
        "float": clock.work("float", [9.0, 2.0, 20.0, 4.0]),
        "fast": clock.work("fast", [9.0, 1.0, 10.0, 2.0]),
    }
    timings = interleaved(calls, rounds=3, clock=clock)
    assert timings["fast"].ratio == 2.0
    assert timings["float"].ratio == 1.0


def test_report_gives_rates_slowest_first():
    report = Timing((2.0, 1.0, 4.0), (4.0, 2.0, 8.0)).report(8)
    assert report == {"per_second": 4.0, "per_second_range": [2.0, 8.0], "ratio": 2.0, "rounds": 3}


def test_ticks_once_a_call():
    ticks = []
    interleaved({"a": int, "b": int}, rounds=2, tick=lambda: ticks.append(1))
    assert len(ticks) == 2 + 4


@pytest.mark.parametrize(("calls", "rounds"), [({}, 1), ({"a": int}, 0)])
def test_nothing_to_time_is_an_error(calls, rounds):
    with pytest.raises(ValueError, match="contestants and rounds"):
        interleaved(calls, rounds)
