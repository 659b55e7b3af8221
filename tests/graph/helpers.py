"""Sites of a function, for tests."""

from collections.abc import Callable
from typing import Any

import jax

from qpass.graph.dataflow import Dataflow
from qpass.graph.program import Program, split_call, trace
from qpass.graph.sites import Site, find_sites
from qpass.graph.walk import analyse


def program_of(fn: Callable, *args: Any, params: Any = 0) -> Program:
    call = split_call(fn, args, {}, params, lambda value: False)
    return trace(fn, call, lambda value: value)


def dataflow_of(fn: Callable, *args: Any, params: Any = 0) -> tuple[Program, Dataflow]:
    program = program_of(fn, *args, params=params)
    return program, analyse(program)


def sites_of(fn: Callable, *args: Any, params: Any = 0) -> tuple[Site, ...]:
    return find_sites(*dataflow_of(fn, *args, params=params))


def table(fn: Callable, *args: Any, params: Any = 0) -> list[tuple[str, str, str]]:
    """``(id, role, weight path)`` of every site."""
    return [(s.id, s.role, s.weight_path) for s in sites_of(fn, *args, params=params)]


def shape(*sizes: int, dtype: Any = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)
