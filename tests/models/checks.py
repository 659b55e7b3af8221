"""What must hold of every model that was written by others: one class of tests, a list of models.

A test file has a function for each network that makes a `Model`, and a subclass of `ModelTests`
that is parametrized with these functions: ``parametrize("model", MODELS, indirect=True)``.
"""

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.helpers import qtensor_paths
from tests.jaxprs import equations

CONTRACTIONS = frozenset({"dot_general", "ragged_dot", "ragged_dot_general"}) | {
    "conv_general_dilated",
    "scaled_dot_general",
}
# For every test file here. How a package calls jax and flax is its own affair.
MARKS = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

INT8 = (qpass.Rule(weight="int8", act="int8"),)
BOUND = 0.03

# What rows of the plan say where a product stays float.
OF_ACTIVATIONS = "product of two activations: only a rule with role='activations' takes it"
SCORES = "scores of attention: only a rule with role='qk' takes it"
VALUES = "values of attention: only a rule with role='pv' takes it"
ROUTER = "router: top_k picks from its result. A rule that fits only routers takes it"
APPROXIMATE_ROUTER = ROUTER.replace("top_k", "approx_top_k")


def attention(layers: int) -> dict[str, int]:
    """The products of attention that stay float, by reason."""
    return {SCORES: layers, VALUES: layers}


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its package's own random weights, called as its user calls it.

    Attributes:
        package: distribution that it is from, with the version that is installed.
        name: what the network is.
        fn: takes the parameters, then the inputs; returns the logits.
        params: the parameters, float.
        inputs: the other arguments.
        weights: paths of all leaves that must be quantized, as the network's user knows them.
        left: how many products must stay float, by reason.
        drawn: the parameters as the initialisers draw them; None where `params` are these.
    """

    package: str
    name: str
    fn: Callable[..., jax.Array]
    params: Any
    inputs: tuple[Any, ...]
    weights: frozenset[str]
    left: Mapping[str, int]
    drawn: Any = None

    @property
    def version(self) -> str:
        """The package's version."""
        return importlib.metadata.version(self.package)

    @cached_property
    def quantized(self) -> qpass.Transformed:
        """The network with int8 weights and activations wherever there is a weight."""
        return qpass.transform(self.fn, INT8)

    @cached_property
    def plan(self) -> qpass.Plan:
        """The plan of one call."""
        return self.quantized.plan(self.params, *self.inputs)

    @cached_property
    def logits(self) -> np.ndarray:
        """The float result."""
        return np.asarray(jax.jit(self.fn)(self.params, *self.inputs), np.float32)

    @cached_property
    def int8_logits(self) -> np.ndarray:
        """The result on weights that are quantized in the same call."""
        return np.asarray(jax.jit(self.quantized)(self.params, *self.inputs))

    @cached_property
    def error(self) -> float:
        """Norm of the difference that int8 makes, relative to the norm of the float result."""
        return relative(self.int8_logits.astype(np.float32), self.logits)

    @cached_property
    def drawn_error(self) -> float | None:
        """The same with `drawn`: shown beside it, and bound by nothing."""
        if self.drawn is None:
            return None
        wanted, got = (jax.jit(f)(self.drawn, *self.inputs) for f in (self.fn, self.quantized))
        return relative(np.asarray(got, np.float32), np.asarray(wanted, np.float32))

    def summary(self) -> dict[str, Any]:
        """The model's line on the page of models."""
        rows = self.plan.rows
        return {
            "package": f"{self.package} {self.version}",
            "model": self.name,
            "found": len(rows),
            "quantized": sum(row.quantized for row in rows),
            "left": dict(Counter(row.reason for row in rows if not row.quantized)),
            "error": self.error,
            "drawn_error": self.drawn_error,
        }


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    """Norm of the difference over the norm of what was wanted."""
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def contractions(jaxpr: Any) -> Iterator[tuple[str, str, str, str]]:
    """Primitive and types of every contraction in a jaxpr and all jaxprs in it."""
    for eqn in equations(jaxpr):
        if eqn.primitive.name in CONTRACTIONS:
            lhs, rhs, *_ = (v.aval.str_short(short_dtypes=True) for v in eqn.invars)
            yield eqn.primitive.name, lhs, rhs, eqn.outvars[0].aval.str_short(short_dtypes=True)


class ModelTests:
    """What must hold of each `Model`, for subclasses."""

    def test_every_contraction_is_in_the_plan_once(self, model: Model) -> None:
        jaxpr = jax.make_jaxpr(model.fn)(model.params, *model.inputs)
        wanted = Counter(contractions(jaxpr.jaxpr))
        assert wanted.total() > 0
        assert Counter((row.op, row.lhs, row.rhs, row.out) for row in model.plan.rows) == wanted
        assert len({row.id for row in model.plan.rows}) == wanted.total()

    def test_nothing_is_skipped_in_silence(self, model: Model) -> None:
        rows = model.plan.rows
        assert {row.weight for row in rows if row.quantized} == model.weights
        assert all(row.scheme == "int8 x int8" for row in rows if row.quantized)
        assert Counter(row.reason for row in rows if not row.quantized) == Counter(model.left)

    def test_folds_change_nothing(self, model: Model) -> None:
        """Each product of a weight has a fold that was tried out, or a reason."""
        folds = model.quantized.folds(model.params, *model.inputs)
        told = [site for f in (*folds, *folds.refusals) for site in f.sites]
        rows = [row for row in model.plan.rows if row.role == "forward" and not row.forward]
        assert sorted(told) == sorted(row.id for row in rows if "dot" in row.op)
        assert all(refusal.reason for refusal in folds.refusals)
        assert folds.error <= 1e-6

    def test_rotations_change_nothing(self, model: Model) -> None:
        """Each product of a weight has a rotation of what it reads, or a reason."""
        rotations = model.quantized.rotations(model.params, *model.inputs)
        told = {site for r in (*rotations, *rotations.refusals) for site in r.sites}
        rows = [row for row in model.plan.rows if row.role == "forward" and not row.forward]
        assert told >= {row.id for row in rows if "dot" in row.op}
        assert all(refusal.reason for refusal in rotations.refusals)
        assert rotations.error <= 1e-6

    def test_int8_logits_are_near_float(self, model: Model, models_page: Callable) -> None:
        wanted = jax.eval_shape(model.fn, model.params, *model.inputs)
        assert (model.int8_logits.shape, model.int8_logits.dtype) == (wanted.shape, wanted.dtype)
        assert np.isfinite(model.logits).all()
        models_page(model.summary())
        assert 0 < model.error < BOUND

    def test_stored_weights_give_the_same_bits(self, model: Model) -> None:
        stored = model.quantized.quantize(model.params, *model.inputs)
        assert model.weights == qtensor_paths(stored)
        served = np.asarray(jax.jit(model.quantized)(stored, *model.inputs))
        np.testing.assert_array_equal(served.view(np.uint8), model.int8_logits.view(np.uint8))

    def test_gradients_are_finite(self, model: Model) -> None:
        got = jax.jit(jax.grad(_loss(model.quantized), allow_int=True))(model.params, *model.inputs)
        leaves = [np.asarray(g, np.float32) for g in jax.tree.leaves(got) if _is_float(g)]
        assert leaves
        assert all(np.isfinite(leaf).all() for leaf in leaves)
        assert any(leaf.any() for leaf in leaves)


def _loss(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Cross entropy against the first class."""

    def loss(*args: Any) -> jax.Array:
        logits = fn(*args).astype(jnp.float32)
        return -jnp.mean(jax.nn.log_softmax(logits)[..., 0])

    return loss


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


# What `flax.nnx.initializers.normal()` draws unless told otherwise.
NARROW = 0.01


def filled(params: Any) -> Any:
    """The parameters, with random numbers where an initialiser leaves a whole matrix zero.

    Such matrices wait for a checkpoint; products with them would pass unseen. Read as (inputs,
    outputs), they get normal numbers of variance 1 / inputs.
    """
    rng = np.random.default_rng(0)

    def fill(leaf: jax.Array) -> jax.Array:
        if leaf.ndim != 2 or leaf.any():
            return leaf
        return jnp.asarray(rng.standard_normal(leaf.shape) / np.sqrt(leaf.shape[0]), leaf.dtype)

    return jax.tree.map(fill, params)


def at_width(params: Any, embeddings: str, full: int = 4096, reduced: int = 64) -> Any:
    """Weights of the package's initialisers, in the proportions that a network of full size has.

    Two things are put right, since each would show nothing but rounding: weights of deviation 0.01,
    which suits thousands of inputs, grow with the root of what the width was reduced by; embeddings
    get variance 1, so that most of the residual stream is what entered it, as in a trained network,
    and not the sum of the layers' outputs with all their errors.

    Args:
        params: the parameters, `filled`.
        embeddings: name of the leaf that holds the embedding.
        full: width that the initialisers are made for.
        reduced: width of this network.
    """

    def scaled(path: tuple, leaf: jax.Array) -> jax.Array:
        deviation = float(jnp.std(leaf)) if leaf.ndim > 1 else 0
        if embeddings in jax.tree_util.keystr(path):
            return leaf / deviation
        narrow = np.isclose(deviation, NARROW, rtol=0.1)
        return leaf * np.sqrt(full / reduced).astype(leaf.dtype) if narrow else leaf

    return jax.tree_util.tree_map_with_path(scaled, params)
