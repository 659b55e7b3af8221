"""Qwix, where it is installed, as a fixture: each of its tests begins with empty caches of jax."""

import warnings
from collections.abc import Iterator

import jax
import pytest

from tests.peers.qwix_side import Peer


@pytest.fixture
def qwix() -> Iterator[Peer]:
    """What Qwix does to a function of parameters and an input.

    It patches functions while jax traces, so that its results depend on what jax has traced
    before. The caches are emptied to have the same start for each test, and afterwards, because
    they hold quantized traces of float functions: even those of functions of jax.
    """
    with warnings.catch_warnings():
        # Qwix asks flax for a class that flax 0.12 has given another name.
        warnings.filterwarnings("ignore", "'VariableState' was removed", DeprecationWarning)
        module = pytest.importorskip("qwix", reason="needs the extra peers: qwix==0.1.8")
        jax.clear_caches()
        yield Peer(module)
        jax.clear_caches()
