"""8. A group size that does not divide the contracted axis was an error."""

import pytest

import qpass
from tests.peers.common import near
from tests.programs import CASES, rules


@pytest.mark.parametrize("group", [7, 16, 32, 39])
def test_a_group_that_does_not_divide_the_axis(group):
    params, x = CASES["matmul"].arguments()
    q = qpass.transform(CASES["matmul"].fn, rules(qpass.int8.grouped(group)))
    qparams = q.quantize(params, x)
    assert sorted(qparams["w"].scale.shape) == sorted((24, -(-40 // group)))
    near(q(qparams, x), CASES["matmul"].fn(params, x), 0.01)


def test_qwix_refuses_such_a_group(qwix):
    params, x = CASES["matmul"].arguments()
    with pytest.raises(ValueError, match=r"\(40, 24\) cannot be tiled as {0: 7}"):
        qwix.served(CASES["matmul"].fn, params, x, qwix.rules(tile_size=7))
