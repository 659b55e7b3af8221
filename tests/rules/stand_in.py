"""A site with the attributes that rules read, and the sites of a small made-up model."""

from dataclasses import dataclass

from qpass.graph.equation import Equation, parse_equation


@dataclass(frozen=True)
class StandIn:
    id: str = "dot_general.0"
    op: str = "dot_general"
    equation: Equation | None = None
    einsum_label: str | None = None
    scope: str = ""
    role: str = "forward"
    weight_path: str = ""
    lhs_shape: tuple[int, ...] = (2, 3, 4)
    rhs_shape: tuple[int, ...] = (4, 5)
    lhs_dtype: str = "float32"
    rhs_dtype: str = "float32"
    source: str = "model.py:1"


def dense(scope: str, **other) -> StandIn:
    return StandIn(
        id=f"{scope}/dot_general.0",
        equation=parse_equation("abc,cd->abd"),
        scope=f"Net/{scope}",
        weight_path=f"params/{scope}/kernel",
        **other,
    )


UP = dense("layers/mlp/up")
DOWN = dense("layers/mlp/down")
QUERY = StandIn(
    id="layers/attn/query/dot_general.0",
    equation=parse_equation("abc,dce->abde"),
    einsum_label="BTD,NDH->BTNH",
    scope="Net/layers/attn/query",
    weight_path="params/layers/attn/query/kernel",
)
LOGITS = StandIn(
    id="layers/attn/dot_general.0",
    equation=parse_equation("abcd,aecd->acbe"),
    einsum_label="...qhd,...khd->...hqk",
    scope="Net/layers/attn",
    role="activations",
)
EXPERTS = StandIn(
    id="layers/moe/ragged_dot_general.0",
    op="ragged_dot_general",
    scope="Net/layers/moe",
    weight_path="params/layers/moe/wi",
)
UP_GRAD = StandIn(
    id="layers/mlp/up/dot_general.1",
    equation=parse_equation("abc,abd->cd"),
    scope="Net/layers/mlp/up",
    role="drhs",
)
MODEL = (UP, DOWN, QUERY, LOGITS, EXPERTS, UP_GRAD)
