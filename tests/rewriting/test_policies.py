"""Every standard rematerialization policy keeps of a quantized program what it keeps of a float."""

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name

import qpass
from tests.jaxprs import count, equations
from tests.rewriting.dequantized import check_at_rounded_weights
from tests.rewriting.oracle import INT8, plain, random, total

W = {"a": random(8, 8, seed=1), "b": random(8, 8, seed=2)}
X = random(4, 8, seed=3)
KEEP = jax.checkpoint_policies
OFFLOAD = {"offload_src": "device", "offload_dst": "pinned_host"}
POLICIES = {
    "none": None,
    "everything": KEEP.everything_saveable,
    "nothing": KEEP.nothing_saveable,
    "dots": KEEP.dots_saveable,
    "checkpoint dots": KEEP.checkpoint_dots,
    "no batch": KEEP.dots_with_no_batch_dims_saveable,
    "checkpoint no batch": KEEP.checkpoint_dots_with_no_batch_dims,
    "these names": KEEP.save_only_these_names("hidden"),
    "any names but": KEEP.save_any_names_but_these("hidden"),
    "anything except": KEEP.save_anything_except_these_names("hidden"),
    "dots or names": KEEP.save_from_both_policies(
        KEEP.dots_saveable, KEEP.save_only_these_names("hidden")
    ),
    "nothing or names": KEEP.save_from_both_policies(
        KEEP.nothing_saveable, KEEP.save_only_these_names("hidden")
    ),
    "offload dots": KEEP.offload_dot_with_no_batch_dims("device", "pinned_host"),
    "offload names": KEEP.save_and_offload_only_these_names(
        names_which_can_be_saved=["hidden"],
        names_which_can_be_offloaded=["other"],
        **OFFLOAD,
    ),
}


def block(policy):
    def f(p, x):
        h = checkpoint_name(jnp.tanh(plain(x, p["a"])), "hidden")
        h = checkpoint_name(jnp.tanh(plain(h, p["b"])), "other")
        return jnp.sin(plain(h, p["a"]))

    return jax.checkpoint(f, policy=policy)


def backward(fn):
    return jax.make_jaxpr(jax.grad(lambda p, x: total(fn(p, x))))(W, X)


def offloaded(program):
    """Shapes of the values that the forward program moves to the host."""
    moved = [e for e in equations(program) if e.primitive.name == "device_put"]
    return sorted(
        e.outvars[0].aval.shape for e in moved if "host" in str(e.params["devices"]).lower()
    )


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_as_much_is_recomputed_and_offloaded_as_without_quantization(policy):
    original = backward(block(policy))
    rewritten = backward(qpass.transform(block(policy), INT8))
    # Three forward products; five backward ones, since the input needs no gradient.
    recomputed = count(original, "dot_general") - 3 - 5
    assert count(rewritten, "quantized_matmul") - 3 == recomputed
    assert offloaded(rewritten) == offloaded(original)


def test_that_the_policies_differ():
    recomputed = {
        name: count(backward(block(p)), "dot_general") - 8 for name, p in POLICIES.items()
    }
    assert set(recomputed.values()) >= {0, 3}
    assert offloaded(backward(block(POLICIES["offload dots"])))
    assert offloaded(backward(block(POLICIES["offload names"])))


def test_values_and_gradients_where_policies_are_combined():
    def slope(f):
        return jax.value_and_grad(lambda p, x: total(f(p, x)), (0, 1))

    check_at_rounded_weights(block(POLICIES["dots or names"]), slope, W, X)
