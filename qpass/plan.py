"""The plan: what is decided at every contraction of a program, and how to look at it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from qpass.errors import PlanError
from qpass.graph._jax import Jaxpr, JaxprEqn
from qpass.graph.dataflow import Dataflow, Key, Path
from qpass.graph.feeds import body_at, enclosing, iterations
from qpass.graph.program import Program
from qpass.graph.regions import Region
from qpass.graph.sites import Site
from qpass.numerics import Quantizer
from qpass.numerics.sparsity import Masked
from qpass.ops.lora import Adapted, Adapter
from qpass.ops.operations import Quantized
from qpass.ops.weights import Storage
from qpass.plan_rows import plan_rows, site_edges
from qpass.rules import Rule
from qpass.suggest import did_you_mean
from qpass.views import Explanation, Row, to_dot, to_html, to_json, to_table, to_text
from qpass.why import why
from qpass_kernels import Kernel

PLATFORMS = ("cpu", "cuda", "rocm", "tpu", "gpu")


def known_platform(name: str) -> str:
    """The name, if products are lowered for such a platform.

    Raises:
        PlanError: no such platform; the message names the nearest.
    """
    if name not in PLATFORMS:
        raise PlanError(f"name a platform; {name!r} is none: {did_you_mean(name, PLATFORMS)}")
    return name


@dataclass(frozen=True)
class Cache:
    """An input that is a cache.

    Attributes:
        quantizer: of what is written into it.
        outputs: results of the program that are the cache, updated.
    """

    quantizer: Quantizer
    outputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Decision:
    """What happens at one site: ``action``, or it stays float for ``reason``. Never both.

    Attributes:
        site: the contraction.
        rule: index of the rule that decided, None where none fits.
        action: how it is quantized; None where it stays float.
        reason: why it stays float; empty where it is quantized.
        stored: whether its weight is stored quantized by ``quantize``.
        notes: what else a user should know.
        advice: what would have its weight stored, where it is not.
        adapter: the adapter beside its weight (`qpass.passes.adapt`); None where it has none.
    """

    site: Site
    rule: int | None = None
    action: Quantized | None = None
    reason: str = ""
    stored: bool = False
    notes: tuple[str, ...] = ()
    advice: str = ""
    adapter: Adapted | None = None

    @property
    def work(self) -> Quantized | Adapted | None:
        """What the rewriter does here; None for what the program says itself."""
        adapter = self.adapter
        return self.action if adapter is None else replace(adapter, quantized=self.action)

    @property
    def quantized(self) -> Quantized:
        """The action of a site that is known to have one.

        Raises:
            PlanError: the site stays float.
        """
        if self.action is None:
            raise PlanError(
                f"ask for sites that are quantized; {self.site.id} is not: {self.reason}"
            )
        return self.action


@dataclass(frozen=True, eq=False)
class Plan:
    """Every contraction of a program with its decision. Passes take a Plan and give a Plan.

    Attributes:
        program: the traced program.
        dataflow: its graph.
        rules: the rules, in order; the first that fits a site decides.
        decisions: one for each site, in program order.
        storage: how each stored leaf is quantized, by index of the input.
        adapters: the adapter of each weight that has one, likewise.
        masked: how each sparse weight is masked, likewise.
        caches: what is known of each stored cache, likewise (`qpass.passes.cache`); `storage` says
            how it is stored.
        kernels: the kernel table.
        regions: sites that are computed together with others (`qpass.graph.regions`); passes add
            them by `qpass.passes.regions.with_regions`.
        platform: platform that kernels are named for.
        strict: whether a rule without effect is an error (else a warning).
        findings: texts about rules and leaves that concern no single site.
        rewritten_notes: what the rewriter had to dequantize, by call path.
    """

    program: Program
    dataflow: Dataflow
    rules: tuple[Rule, ...]
    decisions: tuple[Decision, ...]
    kernels: tuple[Kernel, ...]
    storage: Mapping[int, Storage] = field(default_factory=lambda: MappingProxyType({}))
    adapters: Mapping[int, Adapter] = field(default_factory=lambda: MappingProxyType({}))
    masked: Mapping[int, Masked] = field(default_factory=lambda: MappingProxyType({}))
    caches: Mapping[int, Cache] = field(default_factory=lambda: MappingProxyType({}))
    regions: tuple[Region, ...] = ()
    platform: str = "cpu"
    strict: bool = True
    findings: tuple[str, ...] = ()
    rewritten_notes: tuple[tuple[Key, str], ...] = ()

    def __getitem__(self, site: str) -> Decision:
        """The decision at the site with this id.

        Raises:
            PlanError: no such site; the message names the nearest.
        """
        by_id = {d.site.id: d for d in self.decisions}
        if site not in by_id:
            raise PlanError(f"the plan has no site {site!r}: {did_you_mean(site, by_id)}")
        return by_id[site]

    def around(self, site: Site) -> tuple[JaxprEqn, ...]:
        """The equations that lead to a site, outermost first."""
        return enclosing(self.program.jaxpr, self.dataflow.derivatives, site.key[0])

    def iterations(self, site: Site) -> tuple[int, ...]:
        """Lengths of the scans around a site: the leading axes of what it is fed."""
        return iterations(self.program.jaxpr, self.dataflow.derivatives, site.key[0])

    def body(self, path: Path) -> Jaxpr:
        """The jaxpr at a call path."""
        return body_at(self.program.jaxpr, self.dataflow.derivatives, path)

    def update(self, change: Callable[[Decision], Decision]) -> "Plan":
        """The plan with ``change`` applied to every decision."""
        return replace(self, decisions=tuple(change(d) for d in self.decisions))

    @property
    def actions(self) -> dict[Key, Quantized | Adapted]:
        """What the rewriter does, by call path."""
        work = {d.site.key: d.work for d in self.decisions}
        return {key: action for key, action in work.items() if action is not None}

    @property
    def rows(self) -> tuple[Row, ...]:
        """The plan as plain data, one `qpass.views.Row` for each site and opaque equation."""
        return plan_rows(self)

    def why(self, site: str) -> Explanation:
        """Why the site with this id is as it is; prints as text.

        Raises:
            PlanError: no such site; the message names the nearest.
        """
        return why(self, site)

    def table(self, **options: Any) -> Any:
        """A rich table; see `qpass.views.to_table` for the options."""
        return to_table(self.rows, remarks=self.findings, **options)

    def to_json(self) -> str:
        """All rows as JSON."""
        return to_json(self.rows, self.findings)

    def to_dot(self) -> str:
        """A Graphviz graph of weights, sites and what flows between sites."""
        return to_dot(self.rows, site_edges(self))

    def to_html(self, title: str = "qpass plan") -> str:
        """A self-contained HTML page."""
        return to_html(self.rows, title, self.findings)

    def __rich__(self) -> Any:
        return self.table(folded=True)

    def __str__(self) -> str:
        return to_text(self.table())
