"""Qwix, where it is installed, as a fixture: each of its tests begins with empty caches of jax."""

import warnings
from collections.abc import Iterator

import jax
import pytest

from tests.peers.qwix_side import Peer

# What Qwix 0.1.8 still asks of flax, and flax 0.12 has given other names.
OLD_FLAX = ("'VariableState' was removed", r"The 'm.iter_modules\(\)' method", r"'.value' access")


@pytest.fixture
def qwix() -> Iterator[Peer]:
    """What Qwix does to a function of parameters and an input.

    It patches functions while jax traces, so that its results depend on what jax has traced
    before. The caches are emptied to have the same start for each test, and afterwards, because
    they hold quantized traces of float functions: even those of functions of jax.
    """
    with warnings.catch_warnings():
        for text in OLD_FLAX:
            warnings.filterwarnings("ignore", text, DeprecationWarning)
        module = pytest.importorskip("qwix", reason="needs the extra peers: qwix==0.1.8")
        jax.clear_caches()
        yield Peer(module)
        jax.clear_caches()
