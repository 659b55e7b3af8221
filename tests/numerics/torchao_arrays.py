"""The arrays of tests/data/torchao, by key, and cases joined where their rows are alike."""

import functools
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np

DATA = Path(__file__).parents[1] / "data" / "torchao"
DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16, "f16": jnp.float16}


@functools.cache
def load(name):
    """The arrays of one file: bit patterns of bf16 as bf16."""
    arrays = np.load(DATA / f"{name}.npz")
    return {key: _typed(arrays[key]) for key in arrays.files}


def cases(name, dtype, last):
    """Names of the cases of a file that have an array called `last`, of a dtype: `randn`."""
    ending = f".{dtype}.{last}"
    keys = [key.removesuffix(ending) for key in load(name) if key.endswith(ending)]
    return [case for case in keys if case != "overflow"]


def joined(arrays):
    """The rows of several arrays: what is computed row by row takes one compilation."""
    return np.concatenate([a.reshape(-1, a.shape[-1]) for a in arrays])


def _typed(array):
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array
