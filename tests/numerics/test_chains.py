"""Random chains of layout operations on random tensors."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.numerics.tensors import assert_follows, tensors

OPS = ("transpose", "reshape", "slice", "dynamic_slice", "rev", "broadcast", "squeeze", "order")


def any_op(draw, q):
    """A random operation: on the tensor, and on a numpy array."""
    ndim, shape = q.ndim, q.shape
    axes = st.lists(st.sampled_from(range(ndim)), unique=True) if ndim else st.just([])
    match draw(st.sampled_from(OPS)):
        case "transpose":
            perm = tuple(draw(st.permutations(range(ndim))))
            return lambda q: q.transpose(perm), lambda x: x.transpose(perm)
        case "reshape":
            sizes = draw(reshapes(shape))
            return lambda q: q.reshape(sizes), lambda x: x.reshape(sizes)
        case "slice":
            w = [draw(windows(n)) for n in shape]
            args = [tuple(c) for c in zip(*w, strict=True)] or [(), (), ()]
            at = tuple(slice(*c) for c in w)
            return lambda q: q.slice(*args), lambda x: x[at]
        case "dynamic_slice":
            size = tuple(draw(st.integers(1, n)) for n in shape)
            start = [draw(st.integers(-1, n)) for n in shape]
            traced = draw(st.booleans())
            args = [jnp.asarray(s) for s in start] if traced else start
            put = [min(max(s, 0), n - k) for s, n, k in zip(start, shape, size, strict=True)]
            at = tuple(slice(s, s + k) for s, k in zip(put, size, strict=True))
            return lambda q: q.dynamic_slice(args, size), lambda x: x[at]
        case "rev":
            dims = tuple(draw(axes))
            return lambda q: q.rev(dims), lambda x: np.flip(x, dims)
        case "broadcast":
            at = sorted(draw(st.lists(st.integers(0, ndim), max_size=2)), reverse=True)
            index, sizes = list(range(ndim)), list(shape)
            for place in at:
                index.insert(place, None)
                sizes.insert(place, draw(st.sampled_from([1, 2])))
            dims = tuple(i for i, a in enumerate(index) if a is not None)
            pick = tuple(None if a is None else slice(None) for a in index)
            return (
                lambda q: q.broadcast_in_dim(sizes, dims),
                lambda x: np.broadcast_to(x[pick], sizes),
            )
        case "squeeze":
            dims = tuple(a for a in draw(axes) if shape[a] == 1)
            return lambda q: q.squeeze(dims), lambda x: np.squeeze(x, dims)
        case _:
            n = draw(st.integers(0, ndim))
            return lambda q: q.stacked(n), lambda x: x


@st.composite
def windows(draw, n):
    start = draw(st.sampled_from([0, 0, n // 2, draw(st.integers(0, n - 1))]))
    limit = draw(st.sampled_from([n, draw(st.integers(start + 1, n))]))
    return start, limit, draw(st.sampled_from([1, 1, 2, 4]))


@st.composite
def reshapes(draw, shape):
    """Merge some neighbours, then split some axes."""
    sizes = list(shape)
    for _ in range(draw(st.integers(0, 2))):
        if len(sizes) > 1:
            i = draw(st.integers(0, len(sizes) - 2))
            sizes[i : i + 2] = [sizes[i] * sizes[i + 1]]
    for _ in range(draw(st.integers(0, 2))):
        if sizes:
            i = draw(st.integers(0, len(sizes) - 1))
            divisors = [d for d in range(1, sizes[i] + 1) if sizes[i] % d == 0]
            d = draw(st.sampled_from(divisors))
            sizes[i : i + 1] = [d, sizes[i] // d]
    return tuple(sizes)


@given(tensors(), st.data())
def test_chains_of_operations(q, data):
    for _ in range(data.draw(st.integers(1, 5))):
        on_tensor, on_array = any_op(data.draw, q)
        got = on_tensor(q)
        if got is None:
            break
        assert_follows(q, got, on_array)
        if got.size > 2000:
            break
        q = got
