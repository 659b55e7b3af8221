"""The sums under a plan."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qpass.views.row import Row


@dataclass(frozen=True)
class Leaf:
    """A parameter leaf that at least one quantized site multiplies, with its bytes."""

    path: str
    scheme: str
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Summary:
    """What a plan does in all. Bytes are those of the quantized leaves, each leaf counted once."""

    sites: int
    quantized: int
    left_float: int
    leaves: int
    bytes_before: int
    bytes_after: int
    schemes: tuple[tuple[str, int], ...]
    reasons: tuple[tuple[str, int], ...]
    rules: tuple[tuple[int, str, int], ...]
    refused: tuple[tuple[str, str, int], ...]


def quantized_leaves(rows: Iterable[Row]) -> tuple[Leaf, ...]:
    """The leaves behind the quantized rows, in order of first use.

    Sites that share a leaf (an embedding and the output head, unrolled layers that slice one
    stacked leaf) share its bytes. Where they disagree about what is stored, the larger size counts.
    """
    found: dict[str, Leaf] = {}
    for row in rows:
        if row.quantized and row.weight:
            leaf = Leaf(row.weight, row.scheme, row.bytes_before, row.bytes_after)
            found[row.weight] = _larger(found.get(row.weight, leaf), leaf)
    return tuple(found.values())


def _larger(first: Leaf, second: Leaf) -> Leaf:
    return second if second.bytes_after > first.bytes_after else first


def summarize(rows: Sequence[Row]) -> Summary:
    """Count sites, leaves and bytes.

    Rules come in their order, as (number, text, sites); schemes, reasons and refusals come most
    frequent first.
    """
    leaves = quantized_leaves(rows)
    quantized = sum(row.quantized for row in rows)
    rules = Counter((row.rule, row.rule_text) for row in rows if row.rule is not None)
    refusals = Counter(refusal for row in rows for refusal in row.refused)
    return Summary(
        sites=len(rows),
        quantized=quantized,
        left_float=len(rows) - quantized,
        leaves=len(leaves),
        bytes_before=sum(leaf.bytes_before for leaf in leaves),
        bytes_after=sum(leaf.bytes_after for leaf in leaves),
        schemes=tuple(Counter(row.scheme for row in rows if row.quantized).most_common()),
        reasons=tuple(Counter(row.reason for row in rows if not row.quantized).most_common()),
        rules=tuple((rule, text, n) for (rule, text), n in sorted(rules.items())),
        refused=tuple((kernel, why, n) for (kernel, why), n in refusals.most_common()),
    )
