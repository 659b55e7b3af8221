"""`qpass search`: what it prints, what it writes, and what it refuses."""

import json
import sys

import pytest
from typer.testing import CliRunner

import qpass as qpass_package
from qpass.cli.commands import app

MODEL = """
import jax
import jax.numpy as jnp
import qpass

keys = jax.random.split(jax.random.key(0), 4)
params = {"up": jax.random.normal(keys[0], (16, 32)), "down": jax.random.normal(keys[1], (32, 16))}
batches = [(jax.random.normal(key, (4, 16)),) for key in keys[2:]]
KEEP = [qpass.Rule(path="up", keep=True)]


def fn(params, x):
    return jnp.tanh(x @ params["up"]) @ params["down"]


def mean(result, x):
    return jnp.mean(result)


def example():
    print("building")
    return fn, (params, *batches[0])


def data():
    return {"fn": fn, "args": (params, *batches[0]), "batches": batches}


def by_name():
    return {"fn": fn, "args": (params,), "kwargs": {"x": batches[0][0]}}
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    (tmp_path / "searched_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield "searched_model"
    sys.modules.pop("searched_model", None)


def qpass(*arguments):
    return CliRunner().invoke(app, ["search", *arguments])


SCHEMES = ("--scheme", "int4 g16", "--scheme", "int8")


def test_it_prints_the_choice_and_writes_rules_that_plan_reads(model, tmp_path):
    out = tmp_path / "made" / "rules.json"
    plot = tmp_path / "made" / "front.svg"
    files = ("--out", str(out), "--plot", str(plot))
    result = qpass(f"{model}:data", "--budget", "7 bits", *SCHEMES, *files)
    assert result.exit_code == 0, result.output
    assert "budget 7 bits" in result.stdout
    assert "building" not in result.stdout
    assert 1 <= len(qpass_package.load_rules(out)) <= 2
    assert "<svg" in plot.read_text()
    planned = CliRunner().invoke(app, ["plan", f"{model}:example", "--rules", str(out)])
    assert planned.exit_code == 0
    assert "int4" in planned.stdout


def test_json_is_all_that_it_prints(model):
    result = qpass(f"{model}:example", "--budget", "20%", *SCHEMES, "--json", "--loss", "kl")
    told = json.loads(result.stdout)
    assert set(told["schemes"]) == {"up", "down"}
    assert told["bytes"] <= 0.2 * 2 * 16 * 32 * 4


def test_rules_that_come_first_and_a_loss_of_ones_own(model):
    own = ("--rules", f"{model}:KEEP", "--loss", f"{model}:mean")
    result = qpass(f"{model}:data", "--budget", "7 bits", *SCHEMES, *own, "--json")
    told = json.loads(result.stdout)
    assert set(told["schemes"]) == {"down"}
    assert told["rules"][0] == {"path": "up", "keep": True}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("example", "--budget", "7"), "'4.5 bits'"),
        (("example", "--budget", "7 bits", "--loss", "kll"), "package.module:name"),
        (("example", "--budget", "7 bits", "--scheme", "int9"), "int9"),
        (("by_name", "--budget", "7 bits"), "first argument holds the parameters"),
    ],
)
def test_errors_are_one_line(model, arguments, says):
    result = qpass(f"{model}:{arguments[0]}", *arguments[1:])
    assert result.exit_code == 2
    assert says in result.stderr.splitlines()[-1]
