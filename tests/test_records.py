"""Records: the same codes come of what was written, and other data are seen."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass import checkpoint
from qpass.errors import CallError, RuleError
from qpass.records import fingerprint, made_by

KEYS = jax.random.split(jax.random.key(0), 3)
PARAMS = {"up": jax.random.normal(KEYS[0], (16, 32)), "down": jax.random.normal(KEYS[1], (32, 8))}
BATCHES = [jax.random.normal(key, (24, 16)) for key in jax.random.split(KEYS[2], 2)]
RULES = [qpass.Rule(path="up", weight="int4 g8"), qpass.Rule(weight="int3 g8", act="int8 g8")]


def model(p, x):
    return jnp.tanh(x @ p["up"]) @ p["down"]


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_a_tree_is_made_again_from_its_record(tmp_path):
    method = qpass.GPTQ(path=("up", "down"), range="mse", damp=0.02)
    q = qpass.transform(model, RULES)
    made = q.quantize(PARAMS, method=method, batches=BATCHES)
    plan = q.plan(PARAMS, BATCHES[0])
    qpass.save(tmp_path, made, plan, qpass.record(plan, batches=BATCHES, method=method))

    rules, again = made_by(checkpoint.describe(tmp_path).record)
    assert again == method
    remade = qpass.transform(model, rules).quantize(PARAMS, method=again, batches=BATCHES)
    assert same(remade, made)
    assert not same(qpass.transform(model, rules).quantize(PARAMS, BATCHES[0]), made)


def test_what_is_kept():
    q = qpass.transform(model, RULES)
    plan = q.plan(PARAMS, BATCHES[0])
    stats = q.calibrate(PARAMS, BATCHES)
    found = qpass.record(plan, params=PARAMS, stats=stats, notes={"folds": ["SmoothQuant 0.5"]})
    assert json.loads(json.dumps(found)) == found
    assert found["rules"] == qpass.rules_to_data(plan.rules)
    assert found["stored"] == {"up": "int4 g8", "down": "int3 g8"}
    assert found["method"] is None
    assert found["notes"] == {"folds": ["SmoothQuant 0.5"]}
    assert found["versions"] == {"qpass": qpass.__version__, "jax": jax.__version__}
    assert found["fingerprints"] == {"params": fingerprint(PARAMS), "stats": fingerprint(stats)}


@pytest.mark.parametrize(
    "other",
    [
        {"up": PARAMS["up"].at[0, 0].add(1e-3), "down": PARAMS["down"]},
        {"up": PARAMS["up"].reshape(32, 16), "down": PARAMS["down"]},
        {"up": PARAMS["up"], "dawn": PARAMS["down"]},
        {"up": PARAMS["up"].astype(jnp.bfloat16), "down": PARAMS["down"]},
    ],
)
def test_other_numbers_shapes_names_and_dtypes_are_seen(other):
    assert fingerprint(other) != fingerprint(PARAMS)
    assert fingerprint(jax.tree.map(np.asarray, PARAMS)) == fingerprint(PARAMS)


def test_what_is_no_record():
    plan = qpass.transform(model, RULES).plan(PARAMS, BATCHES[0])
    with pytest.raises(CallError, match="Give a method of qpass's, GPTQ"):
        qpass.record(plan, method=object())  # pyright: ignore[reportArgumentType]
    with pytest.raises(CallError, match=r"Give what qpass\.record gave"):
        made_by({"rules": []})
    with pytest.raises(CallError, match="whose method is GPTQ"):
        made_by({"rules": [], "method": {"name": "AWQ"}})
    with pytest.raises(RuleError, match="Give a list of rules"):
        made_by({"rules": 3, "method": None})
