"""Groups that begin in one shard and end in the next; statistics of batches in parts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import qpass
from qpass.numerics.blocks import extremes
from qpass.ops import cut_groups
from qpass.ops.weights import Storage
from tests.devices.wire import sent

CASES = [(48, 16, 2, "int8"), (352, 32, 4, "int4")]  # rows, group, shards, type


def product(p, x):
    return x @ p["w"]


def arrays(rows):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, rows)).astype(np.float32)
    return {"w": rng.standard_normal((rows, 32)).astype(np.float32)}, jnp.asarray(x)


def rule(qtype, group, act=None):
    return [qpass.Rule(weight=getattr(qpass, qtype).grouped(group), act=act)]


def mesh(shards):
    return Mesh(np.array(jax.devices()[:shards]), ("d",))


def placed(params, shards):
    return jax.device_put(params, NamedSharding(mesh(shards), P("d")))


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * abs(np.asarray(wanted)).max())


@pytest.mark.parametrize(("rows", "group", "shards", "qtype"), CASES)
@pytest.mark.parametrize("act", [None, "int8"])
def test_groups_are_cut_by_global_rows(rows, group, shards, qtype, act):
    params, x = arrays(rows)
    q = qpass.transform(product, rule(qtype, group, act))
    whole, parts = q.quantize(params, x), q.quantize(placed(params, shards), x)
    np.testing.assert_array_equal(
        np.asarray(whole["w"].codes, np.int8), np.asarray(parts["w"].codes, np.int8)
    )
    np.testing.assert_array_equal(whole["w"].scale, parts["w"].scale)
    spec = tuple(parts["w"].codes.sharding.spec)
    assert spec[parts["w"].physical(0)] == "d"
    assert parts["w"].scale.sharding.is_fully_replicated  # 3 groups on 2 shards, 11 on 4
    x_parts = jax.device_put(x, NamedSharding(mesh(shards), P(None, "d")))
    close(jax.jit(q)(parts, x_parts), jax.jit(q)(whole, x))


@pytest.mark.parametrize(("rows", "group", "shards", "qtype"), CASES)
def test_a_leaf_with_cut_groups_is_never_gathered(rows, group, shards, qtype, monkeypatch):
    """Only extremes of parts of groups are, of the rows that groups and shards have in common."""
    params, x = arrays(rows)
    w, moved = placed(params, shards)["w"], []

    def watch(fn):
        def watched(*args):
            moved.extend(sent(fn.lower(*args).compile()))
            return fn(*args)

        return watched

    for module, name in [(cut_groups, "ranges_by_parts"), (qpass.quantize, "encode_within")]:
        monkeypatch.setattr(module, name, watch(getattr(module, name)))
    qpass.transform(product, rule(qtype, group)).quantize({"w": w}, x)
    common = math.gcd(group, rows // shards)
    assert moved
    assert all(math.prod(s.shape) <= w.size // common for s in moved)


def test_ranges_of_parts_are_those_of_groups():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((3, 44, 10)), jnp.bfloat16).at[1, 40:, :].set(jnp.nan)
    blocks = (1, 16, 10)
    for parts in [(1, 4, 10), (1, 1, 10), (1, 8, 10)]:
        jax.tree.map(
            np.testing.assert_array_equal,
            cut_groups.ranges_by_parts(x, blocks, parts),
            extremes(x, blocks),
        )


def test_only_cut_groups_are_ranged_apart():
    for rows, group, shards in [(64, 16, 4), (64, 16, 1), (48, 16, 2)]:
        w = placed(arrays(rows)[0], shards)["w"]
        storage = Storage(qpass.int8.grouped(group), (0,), ())
        found = cut_groups.ranges_of_cut_groups(w, storage)
        assert (found is None) == (rows != 48)
        searched = Storage(qpass.int8.grouped(group).ranged("mse"), (0,), ())
        assert cut_groups.ranges_of_cut_groups(w, searched) is None


def test_scales_of_groups_that_align_are_sharded():
    params, x = arrays(64)
    stored = qpass.transform(product, rule("int8", 16)).quantize(placed(params, 4), x)["w"]
    assert stored.scale.sharding.shard_shape(stored.scale.shape)[stored.physical(0)] == 1


@pytest.mark.parametrize(("rows", "group", "shards", "qtype"), CASES)
def test_a_shard_map_reads_the_scales_of_its_own_rows(rows, group, shards, qtype):
    """Weights are those of one device, so that each shard begins inside of a group."""
    params, x = arrays(rows)
    local = jax.shard_map(
        lambda x, w: jax.lax.psum(x @ w, "d"),
        mesh=mesh(shards),
        in_specs=(P(None, "d"), P("d")),
        out_specs=P(),
    )
    mapped = qpass.transform(lambda p, x: local(x, p["w"]), rule(qtype, group))
    stored = mapped.quantize(placed(params, shards), x)
    whole = qpass.transform(product, rule(qtype, group))
    close(jax.jit(mapped)(stored, x), jax.jit(whole)(whole.quantize(params, x), x))


STATIC = qpass.transform(product, [qpass.Rule(weight="int8", act="int8 static")])
MERGED = ("min", "max", "count", "histogram")


def check_merged(stats, wanted):
    (state,), (expected,) = stats.values(), wanted.values()
    for field in MERGED:
        np.testing.assert_array_equal(state[field], expected[field], err_msg=field)


@pytest.fixture(scope="module")
def batches():
    params, x = arrays(64)
    return params, jnp.concatenate([x, 2 * x, -x, 3 * x])


def test_statistics_of_sharded_batches_are_those_of_whole_ones(batches):
    params, x = batches
    parts = jax.device_put(x, NamedSharding(mesh(4), P("d")))
    check_merged(STATIC.calibrate(params, [parts]), STATIC.calibrate(params, [x]))


def test_statistics_captured_by_each_device_merge_exactly(batches):
    params, x = batches

    def capture(params, x):
        return jax.tree.map(lambda leaf: leaf[None], STATIC.capture(params, x))

    each = jax.shard_map(capture, mesh=mesh(4), in_specs=(P(), P("d")), out_specs=P("d"))
    stacked = each(params, x)
    merged = jax.tree.map(lambda leaf: leaf[0], stacked)
    for device in range(1, 4):
        one = jax.tree.map(lambda leaf, k=device: leaf[k], stacked)
        merged = qpass.update_stats(merged, one)
    check_merged(merged, STATIC.calibrate(params, [x]))


def test_statistics_of_a_mapped_product_are_of_all_devices(batches):
    params, x = batches
    local = jax.shard_map(product, mesh=mesh(4), in_specs=(P(), P("d")), out_specs=P("d"))
    mapped = qpass.transform(local, [qpass.Rule(weight="int8", act="int8 static")])
    check_merged(mapped.calibrate(params, [x]), STATIC.calibrate(params, [x]))
