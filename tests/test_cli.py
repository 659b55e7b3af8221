"""The command line as a person uses it: what it prints where, and with which status it ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import qpass as qpass_package
from qpass.cli.commands import app
from qpass.views import from_json

MODEL = """
import jax
import jax.numpy as jnp
import qpass

RULES = [qpass.Rule(path="**/up", weight="int8", act="int8"), qpass.Rule(path="**", keep=True)]
ABSENT = [qpass.Rule(path="nowhere/**", weight="int8")]

params = {"mlp": {"up": jnp.ones((16, 32)), "down": jnp.ones((32, 16))}}
x = jnp.ones((4, 16))


def fn(params, x):
    return jnp.tanh(x @ params["mlp"]["up"]) @ params["mlp"]["down"]


def two():
    return fn, (params, x)


def three():
    print("building")
    return fn, (params, x), RULES


def named():
    return {"fn": lambda x, *, weights: fn(weights, x), "args": (x,), "kwargs": {"weights": params},
            "rules": RULES, "params": "weights"}


def abstract():
    return fn, jax.eval_shape(lambda: (params, x)), RULES


def rules():
    return RULES


def number():
    return 3


def no_function():
    return 3, (x,)


def no_tuple():
    return fn, x


def odd_dict():
    return {"fn": fn, "arguments": (x,)}


def failing():
    raise RuntimeError("the disk is full\\nand more")


def wrong_shapes():
    return fn, (params, jnp.ones((4, 17))), RULES
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A module of the current directory that no other test has imported."""
    name = f"model_{abs(hash(tmp_path)):x}"
    (tmp_path / f"{name}.py").write_text(MODEL)
    (tmp_path / f"{name}_broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


def qpass(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def refused(*words: str) -> str:
    """The only line on stderr of a command that must fail, without the name in front."""
    result = qpass(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("qpass: ")
    return line.removeprefix("qpass: ")


# --- plan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["three", "named", "abstract"])
def test_plan_draws_the_table(model, factory):
    result = qpass("plan", f"{model}:{factory}")
    assert result.exit_code == 0
    assert "int8 x int8" in result.stdout
    assert "mlp/up" in result.stdout
    assert "2 sites  1 quantized, 1 left float" in result.stdout


def test_json_alone_is_on_stdout(model):
    result = qpass("plan", f"{model}:three", "--json")
    up, down = from_json(result.stdout)
    assert (up.weight, up.scheme, up.rule) == ("mlp/up", "int8 x int8", 0)
    assert (down.weight, down.scheme, down.rule) == ("mlp/down", "", 1)
    assert "building" in result.stderr


def test_without_rules_everything_is_listed_as_float(model):
    rows = from_json(qpass("plan", f"{model}:two", "--json").stdout)
    assert [(row.weight, row.quantized) for row in rows] == [("mlp/up", False), ("mlp/down", False)]
    assert all(row.reason for row in rows)


@pytest.mark.parametrize("rules", ["RULES", "rules"])
def test_rules_of_the_command_line_replace_those_of_the_factory(model, rules):
    for factory in ("two", "three"):
        words = ("plan", f"{model}:{factory}", "--rules", f"{model}:{rules}", "--json")
        assert from_json(qpass(*words).stdout)[0].scheme == "int8 x int8"


def test_kernels_are_those_of_the_platform_asked_for(model):
    def kernel(platform):
        words = ("plan", f"{model}:three", "--platform", platform, "--json")
        return from_json(qpass(*words).stdout)[0]

    assert kernel("cpu").kernel != kernel("cuda").kernel or kernel("cuda").refused


def test_pages_and_graphs_are_written_where_asked(model, tmp_path):
    page, graph = tmp_path / "new" / "plan.html", tmp_path / "plan.dot"
    result = qpass("plan", f"{model}:three", "--html", str(page), "--dot", str(graph), "--json")
    assert result.exit_code == 0
    assert page.read_text().startswith("<!doctype html>")
    assert graph.read_text().startswith("digraph")
    assert f"wrote {page}" in result.stderr
    assert len(json.loads(result.stdout)["sites"]) == 2


def test_why_explains_one_site(model):
    result = qpass("plan", f"{model}:three", "--why", "mlp/down/dot_general.0")
    assert result.exit_code == 0
    for words in (
        "mlp/down (parameter)",
        "rhs of dot_general",
        "path='**/up' does not fit 'mlp/down'",
        "float: kept float by rule 1",
        f"{model}.py:14",
    ):
        assert words in result.stdout
    assert "mlp/up/dot_general.0" not in result.stdout


def test_why_as_json(model):
    result = qpass("plan", f"{model}:three", "--why", "mlp/up/dot_general.0", "--json")
    found = json.loads(result.stdout)
    assert (found["format"], found["row"]["weight"]) == ("qpass-why", "mlp/up")
    assert [rule["says"] for rule in found["rules"]] == [
        "decides: int8 x int8",
        "fits too, but rule 0 comes first",
    ]


def test_why_of_a_site_that_is_not_there_names_the_nearest(model):
    line = refused("plan", f"{model}:named", "--why", "mlp/upp/dot_general.0")
    assert "no site 'mlp/upp/dot_general.0': did you mean 'mlp/up/dot_general.0'" in line


def test_an_unmatched_rule_is_one_line(model):
    line = refused("plan", f"{model}:two", "--rules", f"{model}:ABSENT")
    assert "nowhere/**" in line


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("number", "it returned a value of type int"),
        ("no_function", "its fn is a int, not a function"),
        ("no_tuple", "not a tuple"),
        ("odd_dict", "a dict without args, with unknown arguments"),
        ("x", "must be a function"),
        ("fnn", "did you mean 'fn'"),
    ],
)
def test_what_no_factory_is(model, factory, says):
    line = refused("plan", f"{model}:{factory}")
    assert says in line
    assert factory in line


def test_rules_that_are_none(model):
    assert "must be a list of rules" in refused(
        "plan", f"{model}:two", "--rules", f"{model}:number"
    )


@pytest.mark.parametrize("name", ["model", "model:", ":factory", ""])
def test_what_no_name_is(name):
    assert "Write package.module:name" in refused("plan", name)


@pytest.mark.parametrize("name", ["nowhere_at_all", "json.nowhere.at_all"])
def test_modules_that_are_not_there(name):
    assert f"There is no module '{name}'" in refused("plan", f"{name}:factory")


def test_a_module_that_imports_what_is_not_there_is_not_itself_missing(model):
    line = refused("plan", f"{model}_broken:factory")
    assert "ModuleNotFoundError" in line
    assert "a_module_that_is_not_there" in line


def test_errors_of_the_factory_name_their_line(model):
    number = 1 + MODEL.splitlines().index('    raise RuntimeError("the disk is full\\nand more")')
    line = refused("plan", f"{model}:failing")
    assert line.startswith(f"RuntimeError: the disk is full ({model}.py:{number}).")


def test_errors_of_the_function_are_one_line(model):
    assert "TypeError" in refused("plan", f"{model}:wrong_shapes")


def test_a_traceback_only_when_asked(model):
    result = qpass("plan", f"{model}:failing", "--traceback")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("qpass: RuntimeError")


# --- tune -----------------------------------------------------------------------------------------


def test_tune_times_kernels_and_keeps_the_table(model, tmp_path):
    file = tmp_path / "tables" / "here.json"
    quick = ("--rounds", "1", "--cache-mb", "0")
    result = qpass("tune", f"{model}:three", *quick, "--out", str(file))
    assert result.exit_code == 0
    assert "int8 × int8 → float32, 4 × 32 × 16" in result.stdout
    assert "reference" in result.stdout
    assert [p["n"] for p in json.loads(file.read_text())["products"]] == [32]


def test_tune_of_nothing_says_so(model):
    assert "no quantized products" in qpass("tune", f"{model}:two").stdout


# --- the others -----------------------------------------------------------------------------------


def test_version():
    result = qpass("--version")
    assert result.exit_code == 0
    assert result.stdout == f"qpass {qpass_package.__version__}\n"


@pytest.mark.parametrize("words", [(), ("--help",), ("plan", "--help"), ("demo", "--help")])
def test_help(words):
    result = qpass(*words)
    assert "Usage: " in result.output


def test_an_unknown_option_ends_with_status_2():
    assert qpass("plan", "--wrong").exit_code == 2


def test_demo_hands_on_its_options(monkeypatch, tmp_path):
    from qpass_bench.demo import demo

    seen = []

    def run(options, console):
        seen.append((options, console.stderr))
        console.print("working")
        return {"windows": options.windows}

    monkeypatch.setattr(demo, "run", run)
    result = qpass("demo", "--out", str(tmp_path), "--quick", "--minilm", "--json")
    ((options, on_stderr),) = seen
    assert (options.out, options.encoder, on_stderr) == (tmp_path, True, True)
    assert json.loads(result.stdout) == {"windows": options.windows}
    assert options.windows < demo.DEFAULTS.windows
    assert "working" in result.stderr


def test_demo_draws_on_stdout(monkeypatch):
    from qpass_bench.demo import demo

    monkeypatch.setattr(demo, "run", lambda options, console: console.print("figures"))
    result = qpass("demo")
    assert (result.exit_code, result.stdout) == (0, "figures\n")


def test_demo_without_its_extra_says_how_to_get_it(monkeypatch):
    from qpass_bench.demo import demo

    def run(options, console):
        raise ModuleNotFoundError("No module named 'gguf'", name="gguf")

    monkeypatch.setattr(demo, "run", run)
    line = refused("demo")
    assert line == (
        "Install what this command needs: pip install 'qpass-jax[demo]' (No module named 'gguf')."
    )


def test_bench_transform_draws_writes_and_plots(monkeypatch, tmp_path):
    from qpass_bench.costs import transform

    pytest.importorskip("matplotlib", reason="drawn with the extra `bench`")
    costs = [
        {
            "program": "chain", "equations": n, "sites": n // 8, "trace_s": 0.1 * n,
            "transform_s": 0.2 * n, "transform_s_range": [0.1, 0.3], "us_per_equation": 2e5,
        }
        for n in (1_000, 10_000)
    ]  # fmt: skip
    monkeypatch.setattr(transform, "run", lambda tick: costs)
    file = tmp_path / "new" / "cost.svg"
    result = qpass("bench", "transform", "--plot", str(file))
    assert result.exit_code == 0
    assert "10,000" in result.stdout
    assert "<svg" in file.read_text()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("products", "--plot"), "--plot"),
        (("transform", "--html"), "--html"),
        (("overhead", "--isa", "avx2", "--html"), "--html, --isa"),
    ],
)
def test_bench_refuses_options_of_other_suites(words, option, tmp_path):
    result = qpass("bench", *words, str(tmp_path / "plot.svg"))
    assert result.exit_code == 2
    assert f"has no use for {option}" in result.stderr


def test_the_command_as_a_process(tmp_path):
    """Streams and status of a real process, in a directory that is not on the path of Python."""
    (tmp_path / "mine.py").write_text(MODEL)
    root = Path(__file__).parents[1]
    paths = [str(root), str(root / "kernels"), str(root / "bench")]
    code = f"import sys; sys.path[:0] = {paths!r}; from qpass.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-P", "-c", code, "plan", "mine:three", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert len(from_json(run.stdout)) == 2
    assert "building" in run.stderr
