"""What a search measures, chooses and gives as rules: against plans, programs, all choices."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.searching.budget import as_budget
from qpass_kernels.cpu_cost import FLOAT32
from qpass_kernels.kernel import Chores
from tests.kernels.oracle import product

SCHEMES = ("int3 g16", "int4 g16", "int8", "float")


def model(params, x):
    """Two scanned layers, a layer of its own, and a head; ``x [M, 32]``."""
    x, _ = jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, params["layers"])
    x = x + jnp.tanh(x @ params["last"]["up"]) @ params["last"]["down"]
    return x @ params["head"]


def weights():
    keys = iter(jax.random.split(jax.random.key(0), 6))

    def normal(*shape):
        return jax.random.normal(next(keys), shape) / shape[-2] ** 0.5

    last = {"up": normal(32, 64), "down": normal(64, 32), "bias": jnp.ones(32)}
    return {"layers": normal(2, 32, 32), "last": last, "head": normal(32, 10)}


PARAMS = weights()
BATCHES = [jax.random.normal(key, (8, 32)) for key in jax.random.split(jax.random.key(1), 2)]
PATHS = {"layers", "last/up", "last/down", "head"}


@pytest.fixture(scope="module")
def found():
    return qpass.search(model, PARAMS, BATCHES, budget="6 bits", schemes=SCHEMES, loss="kl")


def by_path(found):
    return {weight.path: weight for weight in found.sensitivity.weights}


def run(rules, x, params=PARAMS):
    q = qpass.transform(model, rules)
    return jax.jit(q)(q.quantize(params, x), x)


def divergence(logits, wanted):
    """By definition, in float64."""
    p, q = (np.exp(a - a.max(-1, keepdims=True)) for a in np.asarray([wanted, logits], np.float64))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return float(np.mean(np.sum(p * np.log(p / q), axis=-1)))


def test_each_weight_alone_is_judged_as_its_quantized_program(found):
    assert set(by_path(found)) == PATHS
    for path, weight in by_path(found).items():
        assert [option.scheme for option in weight.options] == list(SCHEMES)
        for option in weight.options[:-1]:
            rules = [qpass.Rule(path=path, weight=option.scheme)]
            lost = [divergence(run(rules, x), model(PARAMS, x)) for x in BATCHES]
            assert option.loss == pytest.approx(np.mean(lost), rel=1e-2, abs=2e-7)
        assert weight.options[-1].loss == 0


def test_the_error_of_each_product_is_that_of_compare(found):
    q = qpass.transform(model, [qpass.Rule(weight="int4 g16")])
    sites = {site.weight: site.relative_error for site in q.compare(PARAMS, BATCHES[0]).sites}
    for path, weight in by_path(found).items():
        assert weight.options[1].error == pytest.approx(sites[path], rel=1e-6)


def test_sizes_are_those_of_the_stored_tree(found):
    q = qpass.transform(model, found.rules)
    assert found.nbytes == qpass.tree_nbytes(q.quantize(PARAMS, BATCHES[0]))
    numbers = sum(weight.numbers for weight in found.sensitivity.weights)
    rest = PARAMS["last"]["bias"].nbytes
    assert found.bits == pytest.approx(8 * (found.nbytes - rest) / numbers)
    assert 4 < found.bits <= 6


def test_the_rules_give_what_was_chosen_and_nothing_else(found):
    again = qpass.rules_from_data(json.loads(json.dumps(qpass.rules_to_data(found.rules))))
    plan = qpass.transform(model, again).plan(PARAMS, BATCHES[0])
    for decision in plan.decisions:
        scheme = found.schemes[decision.site.weight_path]
        stored = plan.storage.get(decision.site.leaf)
        assert ("float" if stored is None else str(stored.quantizer)) == scheme
    assert len(found.rules) == len(set(found.schemes.values()))


def test_the_loss_of_all_together_is_measured(found):
    lost = [divergence(run(found.rules, x), model(PARAMS, x)) for x in BATCHES]
    assert found.loss == pytest.approx(np.mean(lost), rel=1e-2)
    assert found.predicted == pytest.approx(sum(o.loss for o in found.chosen))


@pytest.mark.parametrize("budget", ["5.5 bits", "8 bits", "20 bits"])
def test_no_choice_of_that_size_is_predicted_to_lose_less(found, budget):
    chosen = found.within(budget)
    limit = as_budget(budget).amount * found.sensitivity.numbers / 8
    groups = [weight.options for weight in found.sensitivity.weights]
    fitting = [c for c in itertools.product(*groups) if sum(o.nbytes for o in c) <= limit]
    assert chosen.predicted == pytest.approx(min(sum(o.loss for o in c) for c in fitting))


def test_bytes_and_percent_count_all_parameters(found):
    whole = qpass.tree_nbytes(PARAMS)
    for budget, limit in (("5 kB", 5000), ("30%", 0.3 * whole)):
        chosen = found.within(budget)
        stored = qpass.transform(model, chosen.rules).quantize(PARAMS, BATCHES[0])
        assert 0.9 * limit < qpass.tree_nbytes(stored) <= limit


def test_a_budget_of_loss_holds_for_all_together(found):
    sizes = []
    for budget in (0.0005, 0.02, 0.2):
        chosen = found.within(f"{budget} loss")
        lost = [divergence(run(chosen.rules, x), model(PARAMS, x)) for x in BATCHES]
        assert np.mean(lost) <= budget * 1.01
        sizes.append(chosen.nbytes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_a_budget_of_time_is_of_expected_products(found):
    weights = found.sensitivity.weights
    for budget in ("100 us", "0.09 ms"):
        limit = as_budget(budget).amount * {"us": 1e3, "ms": 1e6}[budget.split()[1]]
        chosen = found.within(budget)
        fitting = [
            c
            for c in itertools.product(*(weight.options for weight in weights))
            if sum(o.nanoseconds for o in c) <= limit
        ]
        assert chosen.nanoseconds <= limit
        assert chosen.predicted == pytest.approx(min(sum(o.loss for o in c) for c in fitting))


def test_times_are_those_of_the_kernel_for_each_run(found):
    def nanoseconds(k, n, runs):
        """Of 8 rows in float32."""
        return runs * sum(FLOAT32.parts(product(8, n, k, "float32", "float32"), Chores()))

    sizes = {"layers": (32, 32, 2), "last/up": (32, 64, 1), "last/down": (64, 32, 1)}
    for path, (k, n, runs) in (sizes | {"head": (32, 10, 1)}).items():
        option = by_path(found)[path].options[-1]
        assert option.nanoseconds == pytest.approx(nanoseconds(k, n, runs), abs=1)
    own = [option.nanoseconds for option in by_path(found)["layers"].options]
    assert len(set(own)) > 1


def test_times_that_nobody_knows_are_no_budget():
    def experts(params, x):
        return jax.lax.ragged_dot(x, params["w"], jnp.array([3, 5]))

    params = {"w": PARAMS["layers"]}
    found = qpass.search(experts, params, BATCHES, budget="9 bits", schemes=("int8", "float"))
    assert found.nanoseconds is None
    with pytest.raises(qpass.PlanError, match="how long w takes in int8 is not known"):
        found.within("2 ms")


def test_with_all_that_it_may_spend_everything_stays_float(found):
    chosen = found.within("32 bits")
    assert set(chosen.schemes.values()) == {"float"}
    assert (chosen.loss, chosen.nbytes) == (0, qpass.tree_nbytes(PARAMS))
    assert [rule.describe() for rule in chosen.rules] == ["path=** keep"]


def test_the_front_falls_from_the_smallest_to_the_largest(found):
    points = found.front()
    groups = [weight.options for weight in found.sensitivity.weights]
    rest = found.sensitivity.rest
    assert points[0].nbytes == rest + sum(min(o.nbytes for o in g) for g in groups)
    assert (points[-1].nbytes, points[-1].loss) == (qpass.tree_nbytes(PARAMS), 0)
    for one, other in itertools.pairwise(points):
        assert one.nbytes < other.nbytes
        assert one.loss > other.loss


def test_what_is_shown(found, tmp_path):
    text = str(found)
    assert "budget 6 bits" in text
    assert all(f"rule {n}  {rule.describe()}" in text for n, rule in enumerate(found.rules))
    assert text.count("→") == len(PATHS)
    told = json.loads(found.to_json())
    assert told["schemes"] == found.schemes
    assert [len(w["options"]) for w in told["weights"]] == [4] * 4
    found.plot(tmp_path / "front.svg")
    assert "chosen" in (tmp_path / "front.svg").read_text()


def test_a_loss_of_ones_own_is_what_changes():
    targets = jnp.arange(8) % 10

    def loss(logits, x, targets):
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(8), targets])

    batches = [(x, targets) for x in BATCHES]
    found = qpass.sensitivity(
        lambda params, x, targets: model(params, x),
        PARAMS, batches, schemes=("int3 g16",), loss=loss, path="head", errors=False,
    )  # fmt: skip
    rules = [qpass.Rule(path="head", weight="int3 g16")]
    floats = np.mean([loss(model(PARAMS, x), x, targets) for x in BATCHES])
    wanted = np.mean([loss(run(rules, x), x, targets) for x in BATCHES]) - floats
    assert found.base == pytest.approx(floats, rel=1e-6)
    assert found.weights[0].options[0].loss == pytest.approx(wanted, rel=1e-2, abs=1e-6)
    assert found.weights[0].options[0].error is None


def test_without_a_word_the_loss_is_relative_error():
    found = qpass.sensitivity(model, PARAMS, BATCHES[0][None], schemes=("int4 g16",), path="head")
    wanted = np.asarray(model(PARAMS, BATCHES[0]))
    off = np.asarray(run([qpass.Rule(path="head", weight="int4 g16")], BATCHES[0])) - wanted
    assert found.weights[0].options[0].loss == pytest.approx(
        np.sum(off**2) / np.sum(wanted**2), rel=1e-3
    )


def test_rules_that_come_first_are_kept():
    first = [qpass.Rule(path="head", weight="int8"), qpass.Rule(path="layers", keep=True)]
    found = qpass.search(
        model, PARAMS, BATCHES, budget="5.5 bits", schemes=("int3 g16", "int4 g16"), rules=first
    )
    assert set(found.schemes) == {"last/up", "last/down"}
    assert found.rules[:2] == tuple(first)
    q = qpass.transform(model, found.rules)
    stored = q.quantize(PARAMS, BATCHES[0])
    assert found.nbytes == qpass.tree_nbytes(stored)
    assert isinstance(stored["head"], qpass.QTensor)
    assert not isinstance(stored["layers"], qpass.QTensor)
    # What the rules that come first lose is in the base, and counts for nobody.
    assert found.sensitivity.base > 0
    assert found.within("80%").rules[:2] == tuple(first)


def test_weights_that_cannot_be_stored_are_told():
    def reads_twice(params, x):
        return (x @ params["a"]) @ params["b"] + jnp.sum(params["b"] ** 2)

    params = {"a": PARAMS["last"]["up"], "b": PARAMS["last"]["down"]}
    found = qpass.search(reads_twice, params, BATCHES, budget="9 bits", schemes=("int8",))
    assert set(found.schemes) == {"a"}
    assert list(found.sensitivity.refused) == ["b"]
    assert "not searched: b" in str(found)
    assert [rule.path for rule in found.rules] == ["a"]


def test_a_table_that_is_read_twice_is_one_weight():
    def tied(params, tokens):
        return params["table"][tokens] @ params["w"] @ params["table"].T

    params = {"table": PARAMS["last"]["down"], "w": PARAMS["layers"][0]}
    tokens = jnp.arange(8)
    found = qpass.search(tied, params, [tokens], budget="9 bits", schemes=("int8",), loss="kl")
    assert set(found.schemes) == {"table", "w"}


def flat(params, x):
    return jnp.sum(x @ params["w"])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"batches": []}, qpass.CalibrationError, "batches are empty"),
        ({"loss": "kll"}, qpass.CallError, "'kl'"),
        ({"fn": flat, "params": {"w": PARAMS["head"]}, "loss": "kl"}, qpass.CallError, "logits"),
        ({"path": "haed"}, qpass.RuleError, "head"),
        ({"schemes": ("int9",)}, qpass.UnknownTypeError, "int9"),
        ({"schemes": ("float",)}, qpass.PlanError, "no scheme quantizes"),
        ({"budget": "4.5"}, qpass.PlanError, "'4.5 bits', '80 MB'"),
        ({"budget": "4.5 mb"}, qpass.PlanError, "units of size"),
        ({"budget": "0 bits"}, qpass.PlanError, "above zero"),
        ({"budget": 4.5}, qpass.PlanError, "got 4.5"),
        ({"budget": "1 bits"}, qpass.PlanError, r"\(6 bits for each.*got 1 bits"),
        ({"budget": "100 B"}, qpass.PlanError, "not searched"),
        ({"budget": "1e-9 loss", "schemes": ("int8",)}, qpass.PlanError, "at least"),
        ({"batches": [BATCHES[0] * jnp.nan]}, qpass.QuantizeError, "the function itself is nan"),
    ],
)
def test_what_is_wrong_is_said(change, error, says):
    given = {"fn": model, "params": PARAMS, "batches": BATCHES[:1], "budget": "5 bits"}
    given |= {"schemes": ("int4 g16",), "errors": False} | change
    with pytest.raises(error, match=says):
        qpass.search(given.pop("fn"), given.pop("params"), given.pop("batches"), **given)


def test_model_objects_are_refused_with_the_way_out():
    class Model(list):
        def __call__(self, x):
            return x @ self[0]

    jax.tree_util.register_pytree_node(Model, lambda m: (list(m), None), lambda _, c: Model(c))
    with pytest.raises(qpass.CallError, match="lambda model, x: model"):
        qpass.search(Model([PARAMS["head"]]), BATCHES[0], [BATCHES[1]], budget="5 bits")
    found = qpass.search(
        lambda model, x: model(x), Model([PARAMS["head"]]), BATCHES, budget="5 bits",
        schemes=("int4 g16", "int4"),
    )  # fmt: skip
    assert list(found.schemes) == ["0"]
