"""Choosing kernels by measuring: candidates, what is left out, and the table that is kept."""

import dataclasses
import itertools
import json
from dataclasses import dataclass

import numpy as np
import pytest

from qpass_kernels import REFERENCE, Kernel, select
from qpass_kernels.tuning import Choice, Method, Tuned, bucket, load, search, shipped
from qpass_kernels.tuning.operands import operands
from qpass_kernels.tuning.timing import in_turns, take_turns
from tests.kernels.oracle import exact, product

P = product(8, 16, 32, "bfloat16", "int8")


@dataclass(frozen=True)
class Config:
    rows: int
    wrong: bool = False


def kernel(name, configs, platforms=("cpu",), supports=lambda product: None, log=None):
    """Computes as the reference does; the last config it has been traced with goes to `log`."""

    def run(product, *operands, config=None):
        config = config or configs[0]
        if log is not None:
            log.append(config)
        if config.rows > 512:
            raise ValueError("too many rows\nand more")
        return REFERENCE.run(product, *operands) * (2 if config.wrong else 1)

    return Kernel(name, platforms, supports, run, configs=lambda product: configs)


class Clock:
    """Turns take these seconds, in the order in which they come."""

    def __init__(self, seconds):
        self.pace = itertools.cycle(seconds)
        self.now = 0.0
        self.running = False

    def __call__(self):
        if self.running:
            self.now += next(self.pace)
        self.running = not self.running
        return self.now


def tuned(kind, choice, platform="cpu"):
    return Tuned("a device", platform, "0.12", ((bucket(kind), choice),))


def rows(number, form="Config"):
    return (("form", form), ("rows", number), ("wrong", False))


def test_every_setting_is_timed():
    table = (kernel("two", (Config(64), Config(128))),)
    trials = search(table, P, Method(rounds=1, cache=1, least=2, clock=Clock([4.0, 1.0])))
    assert [t.config.rows for t in trials] == [64, 128]
    assert {t.seconds for t in trials} == {2.0, 0.5}  # of two calls, whoever was first


def test_small_weights_come_again_until_there_are_calls_enough():
    small, large = product(1, 16, 32, "bfloat16", "int8"), product(1, 2**10, 2**10, "int8", "int8")
    method = Method(cache=2**22, least=16)
    assert [method.weights(p) for p in (small, large)] == [64, 4]
    assert [method.calls(p) for p in (small, large)] == [64, 16]


def test_everybody_has_a_turn_a_round_and_follows_every_other():
    log = []
    turns = {name: lambda name=name: log.append(name) or float(ord(name)) for name in "abc"}
    seconds = take_turns(turns, 30)
    rounds = ["".join(log[i : i + 3]) for i in range(0, 90, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert {one[i : i + 2] for one in rounds for i in (0, 1)} == {
        "ab",
        "ac",
        "ba",
        "bc",
        "ca",
        "cb",
    }
    assert seconds == {name: (float(ord(name)),) * 30 for name in "abc"}


def test_the_middle_round_counts_and_warming_up_does_not():
    now = [0.0]

    def work(*seconds):
        left = list(seconds)
        return lambda: now.__setitem__(0, now[0] + left.pop(0))

    programs = {"slow": work(100.0, 5.0, 7.0, 6.0), "fast": work(100.0, 2.0, 1.0, 3.0)}
    method = Method(rounds=3, clock=lambda: now[0])
    assert in_turns(programs, method) == {"slow": 6.0, "fast": 2.0}


def test_what_fails_or_computes_something_else_is_left_out_with_a_reason():
    table = (kernel("bad", (Config(64), Config(1024), Config(64, wrong=True))), REFERENCE)
    good, failed, wrong, reference = search(table, P, Method(rounds=1, cache=1, least=2))
    assert good.seconds
    assert reference.seconds
    assert (failed.seconds, failed.reason) == (None, "ValueError: too many rows")
    assert wrong.seconds is None
    assert "off by 1 of the largest" in wrong.reason


def test_kernels_of_other_platforms_and_refusing_ones_are_no_candidates():
    table = (
        kernel("elsewhere", (Config(1),), platforms=("cuda",)),
        kernel("picky", (Config(1),), supports=lambda product: "not today"),
        REFERENCE,
    )
    assert [t.kernel for t in search(table, P, Method(rounds=1, cache=1, least=2))] == ["reference"]


def test_symbolic_sizes_are_refused():
    with pytest.raises(ValueError, match="m symbolic"):
        search((REFERENCE,), dataclasses.replace(P, m="m"))


@pytest.mark.parametrize("lhs", ["bfloat16", "int8", "float8_e4m3fn"])
@pytest.mark.parametrize(("rhs", "group"), [("int8", None), ("int4", 16), ("float8_e5m2", None)])
def test_random_products_have_numbers_about_one(lhs, rhs, group):
    p = product(32, 48, 64, lhs, rhs, group=group)
    result, _ = exact(p, *operands(p))
    assert 0.1 < np.std(result) < 10


def test_the_chosen_setting_runs():
    log = []
    made = kernel("two", (Config(64), Config(128)), log=log)
    bound = tuned(
        P, Choice("two", (("form", "Config"), ("rows", 128), ("wrong", False)), 1.0)
    ).kernels((made,))
    bound[0].run(P, *operands(P))
    other = dataclasses.replace(P, n=17)
    bound[0].run(other, *operands(other))
    assert [config.rows for config in log] == [128, 64]


def test_settings_of_another_class_are_others():
    log = []
    made = kernel("two", (Config(64), Config(128)), log=log)
    bound = tuned(P, Choice("two", rows(128, "Other"), 1.0)).kernels((made,))
    bound[0].run(P, *operands(P))
    assert log == [Config(64)]


def test_a_setting_that_is_not_offered_any_more_is_passed_over():
    log = []
    made = kernel("two", (Config(64),), log=log)
    bound = tuned(
        P, Choice("two", (("form", "Config"), ("rows", 96), ("wrong", False)), 1.0)
    ).kernels((made,))
    bound[0].run(P, *operands(P))
    assert log == [Config(64)]


def test_a_slower_kernel_gives_way_with_a_reason():
    table = (kernel("first", (Config(1),)), kernel("second", (Config(1),)), REFERENCE)
    bound = tuned(P, Choice("second", None, 1.0)).kernels(table)
    chosen = select(bound, "cpu", P)
    assert chosen.kernel.name == "second"
    assert chosen.refused == (("first", "measured slower here than second"),)
    assert select(bound, "cpu", dataclasses.replace(P, k=64)).kernel.name == "first"


def test_no_kernel_gives_way_to_one_that_is_missing_or_refuses():
    first = kernel("first", (Config(1),))
    choice = tuned(P, Choice("second", None, 1.0))
    assert choice.kernels((first,))[0].supports(P) is None
    picky = kernel("second", (Config(1),), supports=lambda p: "no tails" if p.m % 8 else None)
    bound = choice.kernels((first, picky))
    assert bound[0].supports(P)
    assert bound[0].supports(dataclasses.replace(P, m=7)) is None


def test_other_platforms_keep_their_kernels():
    table = (kernel("there", (Config(1),), platforms=("tpu",)), REFERENCE)
    bound = tuned(P, Choice("reference", None, 1.0), platform="cuda").kernels(table)
    assert bound == table


def test_equal_tables_bound_twice_are_equal():
    """They are parameters of compiled functions, which are looked up by them."""
    table = (kernel("two", (Config(64),)), REFERENCE)
    one, two = (tuned(P, Choice("two", None, 1.0)).kernels(table) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)


def test_a_table_is_read_as_it_was_written(tmp_path):
    choice = Choice("two", rows(128), 1e-5)
    whole = dataclasses.replace(
        tuned(P, choice),
        choices=((bucket(P), choice), (bucket(product(1, 8, 8, "int8", "int8")), choice)),
    )
    whole.save(tmp_path / "table.json")
    assert load(tmp_path / "table.json") == whole


@pytest.mark.parametrize("text", ["{}", "[]", '{"products": [{}], "device": "x"}', "no json"])
def test_other_files_are_refused(tmp_path, text):
    file = tmp_path / "table.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"table|Expecting"):
        load(file)


def test_buckets():
    rows = {m: bucket(product(m, 3, 5, "int8", "int8", batch=3)).m for m in (0, 1, 2, 8, 9, 100)}
    assert rows == {0: 8, 1: 1, 2: 8, 8: 8, 9: 16, 100: 128}
    assert bucket(product("m", 3, 5, "int8", "int8", batch=3)).batch == 4
    assert bucket(product("m", 3, 5, "int8", "int8")).m == "m"


def test_shipped_tables_name_devices_and_kernels():
    for found in shipped():
        assert found.choices
        assert json.loads(found.to_json())["device"] == found.device
