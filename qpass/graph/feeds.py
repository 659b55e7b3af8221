"""Feeds: values that decided sites are handed from outside, the inverse of taps.

What a site is fed (the range of its activation, a key of its own) is a pytree of arrays. It enters
with the program's inputs and follows the call path down to its site. Each `scan` on the way cuts
off the leading axis, one slice for each iteration, so that stacked layers have each their own;
everything else hands it on as it is, and all iterations of a ``while`` get the same.

Feeds are nested by call path, so that a sub-program sees those of its own sites only, under names
that do not depend on who calls it: ``{"3.body": {"0": fed to equation 0 of that body}}``.
"""

from collections.abc import Mapping
from typing import Any

from qpass.graph._jax import Jaxpr, JaxprEqn
from qpass.graph.dataflow import Key, Path
from qpass.graph.higher_order import bodies

Feeds = Mapping[str, Any]


def nest(fed: Mapping[Key, Any]) -> dict[str, Any]:
    """Feeds from what each site is handed, by call path.

    The arrays of a site need a leading axis for each scan around it: see `iterations`.
    """
    feeds: dict[str, Any] = {}
    for (path, index), value in fed.items():
        inner = feeds
        for step in path:
            inner = inner.setdefault(step_name(*step), {})
        inner[str(index)] = value
    return feeds


def step_name(index: int, body: str) -> str:
    """What one step of a call path is called: into sub-program ``body`` of equation ``index``."""
    return f"{index}.{body}"


def beneath(feeds: Feeds, index: int) -> dict[str, Any]:
    """Those of ``feeds`` that are for sub-programs of equation ``index``."""
    return {name: fed for name, fed in feeds.items() if name.startswith(f"{index}.")}


def iterations(jaxpr: Jaxpr, derivatives: Mapping[Key, Any], path: Path) -> tuple[int, ...]:
    """Lengths of the scans around a call path, outermost first; arguments as of `enclosing`."""
    around = enclosing(jaxpr, derivatives, path)
    return tuple(eqn.params["length"] for eqn in around if eqn.primitive.name == "scan")


def enclosing(jaxpr: Jaxpr, derivatives: Mapping[Key, Any], path: Path) -> tuple[JaxprEqn, ...]:
    """The equations that a call path leads through, outermost first.

    Args:
        jaxpr: the program.
        derivatives: its traced derivative rules, from the dataflow.
        path: a call path in it, or in one of the rules.
    """
    around = []
    for depth, (index, name) in enumerate(path):
        around.append(jaxpr.eqns[index])
        jaxpr = _inside(around[-1], name, derivatives.get((path[:depth], index)))
    return tuple(around)


def body_at(jaxpr: Jaxpr, derivatives: Mapping[Key, Any], path: Path) -> Jaxpr:
    """The jaxpr at a call path; arguments as of `enclosing`."""
    for depth, (index, name) in enumerate(path):
        jaxpr = _inside(jaxpr.eqns[index], name, derivatives.get((path[:depth], index)))
    return jaxpr


def _inside(eqn: JaxprEqn, name: str, rule: Any) -> Jaxpr:
    inner = {body.key: body.jaxpr for body in bodies(eqn)}
    return inner[name] if name in inner else getattr(rule, name)
