"""Record: how a tree was quantized, as plain data, so that it can be audited and made again.

>>> record = qpass.record(plan, params=params, stats=stats)   # doctest: +SKIP
>>> qpass.save(folder, qparams, plan, record)                 # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from qpass.configs import rules_from_data, rules_to_data
from qpass.errors import CallError
from qpass.methods import GPTQ
from qpass.plan import Plan
from qpass.rules import Rule

METHODS = {"GPTQ": GPTQ}


def record(
    plan: Plan,
    *,
    params: Any = None,
    stats: Any = None,
    batches: Any = None,
    method: GPTQ | None = None,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `q.quantize` was called with, as JSON has it.

    Args:
        plan: of the call; its rules are kept, and which leaves are stored how.
        params: the float parameters, of which a fingerprint is kept.
        stats: as `q.quantize` took them; a fingerprint is kept.
        batches: likewise.
        method: likewise; all of it is kept.
        notes: what else there is to say: folds that were applied, where the data come from.

    Raises:
        RuleError: rules that are no data (`qpass.rules_to_data`).
        CallError: a method that is not one of qpass's.
    """
    leaves = plan.program.leaves
    seen = {"params": params, "stats": stats, "batches": batches}
    return {
        "rules": rules_to_data(plan.rules),
        "stored": {leaves[k].path: str(s.quantizer) for k, s in plan.storage.items()},
        "method": _method(method),
        "fingerprints": {name: fingerprint(x) for name, x in seen.items() if x is not None},
        "versions": {"qpass": version("qpass-jax"), "jax": jax.__version__},
        "notes": dict(notes or {}),
    }


def fingerprint(tree: Any) -> str:
    """BLAKE2b, 16 bytes in hexadecimal digits, of the paths, dtypes, shapes and bytes of a tree."""
    found = hashlib.blake2b(digest_size=16)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(keys)} {array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def made_by(data: Mapping[str, Any]) -> tuple[tuple[Rule, ...], GPTQ | None]:
    """The rules and the method of a record: what is needed to quantize as it was done.

    Raises:
        RuleError: what is there are no rules.
        CallError: it is no record, or names another method.
    """
    if not isinstance(data, Mapping) or not {"rules", "method"} <= set(data):
        raise CallError(f"Give what qpass.record gave; got {data!r:.60}.")
    about = data["method"]
    if about is None:
        return rules_from_data(data["rules"]), None
    if about.get("name") not in METHODS:
        raise CallError(f"Give a record whose method is {', '.join(METHODS)}; got {about!r:.60}.")
    given = {name: value for name, value in about.items() if name != "name"}
    path = given.get("path")
    given |= {"path": tuple(path)} if isinstance(path, list) else {}
    return rules_from_data(data["rules"]), METHODS[about["name"]](**given)


def _method(method: Any) -> dict[str, Any] | None:
    if method is None:
        return None
    name = type(method).__name__
    if METHODS.get(name) is not type(method):
        raise CallError(f"Give a method of qpass's, {', '.join(METHODS)}; got {method!r:.60}.")
    values = {field.name: getattr(method, field.name) for field in fields(method)}
    return {"name": name} | {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
