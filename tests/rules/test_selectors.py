"""What each selector chooses among sites, through the rules that use it."""

import pytest

from qpass.graph.equation import parse_equation
from qpass.rules import Rule, match_rules
from qpass.rules.selectors import OP_ALIASES, OPS, ROLES
from tests.rules.stand_in import DOWN, EXPERTS, LOGITS, MODEL, QUERY, UP, UP_GRAD, StandIn


def chosen(sites=MODEL, **selectors):
    """The sites that a rule with these selectors fits, in every role unless one is given."""
    rule = Rule(**{"role": "*", **selectors}, keep=True)
    ids = match_rules(rule, sites).matched[0]
    return [site for site in sites if site.id in ids]


@pytest.mark.parametrize(
    ("path", "sites"),
    [
        ("**/mlp/**", [UP, DOWN]),
        ("**/up/kernel", [UP]),
        ("params/layers/*/*/kernel", [UP, DOWN, QUERY]),
        (("**/up/**", "**/moe/*"), [UP, EXPERTS]),
        (["**/up/**", "**/moe/*"], [UP, EXPERTS]),
        (r"re:params/layers/(mlp|moe)/.*", [UP, DOWN, EXPERTS]),
        ("kernel", []),
    ],
)
def test_path(path, sites):
    assert chosen(path=path) == sites


@pytest.mark.parametrize("path", ["**", "re:.*"])
def test_a_product_without_a_weight_has_no_path(path):
    assert chosen(path=path) == [UP, DOWN, QUERY, EXPERTS]


@pytest.mark.parametrize(
    ("scope", "sites"),
    [
        ("Net/layers/attn", [LOGITS]),
        ("Net/layers/attn/**", [QUERY, LOGITS]),
        ("**/mlp/*", [UP, DOWN, UP_GRAD]),
        ("re:.*/(up|moe)", [UP, EXPERTS, UP_GRAD]),
    ],
)
def test_scope(scope, sites):
    assert chosen(scope=scope) == sites


def test_the_empty_scope_is_no_name_at_all():
    assert chosen([StandIn()], scope="**") == [StandIn()]
    assert chosen([StandIn()], scope="*") == []


@pytest.mark.parametrize(
    ("einsum", "sites"),
    [
        ("btd,df->btf", [UP, DOWN]),
        ("...d,df->...f", [UP, DOWN]),
        ("BTD,NDH->BTNH", [QUERY]),
        ("NDH,BTD->NHBT", [QUERY]),
        ("BTD,DNH->BTNH", []),
        ("bqhd,bkhd->bhqk", [LOGITS]),
        ("...qhd,...khd->...hqk", [LOGITS]),
        (("BTD,NDH->BTNH", "bqhd,bkhd->bhqk"), [QUERY, LOGITS]),
    ],
)
def test_einsum(einsum, sites):
    assert chosen(einsum=einsum) == sites


def test_einsum_by_the_text_that_the_user_gave():
    """The text is found although the product itself looks otherwise: sizes of 1, three operands."""
    squeezed = StandIn(equation=parse_equation("ab,bc->ac"), einsum_label="bqk,bkd->bqd")
    partial = StandIn(equation=parse_equation("ab,bc->ac"), einsum_label="bsd,df,fe->bse")
    assert chosen([squeezed], einsum="BQK,BKD->BQD") == [squeezed]
    assert chosen([partial], einsum="xyz,zu,uv->xyv") == [partial]
    assert chosen([partial], einsum="xyz,zu,vu->xyv") == []
    assert chosen([partial], einsum="ab,bc->ac") == [partial]


def test_a_label_that_is_no_equation_is_passed_over():
    assert chosen([StandIn(einsum_label="not an equation->?")], einsum="ab,bc->ac") == []


def test_a_product_without_an_equation_fits_no_einsum():
    assert chosen([EXPERTS], einsum="...,...->...") == []


@pytest.mark.parametrize(
    ("op", "sites"),
    [
        ("ragged_dot", [EXPERTS]),
        ("ragged_dot_general", [EXPERTS]),
        (("ragged_dot", "conv"), [EXPERTS]),
        ("dot_general", [UP, DOWN, QUERY, LOGITS, UP_GRAD]),
        ("einsum", [UP, DOWN, QUERY, LOGITS, UP_GRAD]),
        ("matmul", [UP, DOWN, QUERY, LOGITS, UP_GRAD]),
        ("conv", []),
    ],
)
def test_op(op, sites):
    assert chosen(op=op) == sites


def test_aliases_mean_operations_that_exist():
    assert set(OP_ALIASES.values()) <= set(OPS)


def test_where():
    assert chosen(where=lambda site: site.lhs_shape[0] > 2) == []
    assert chosen(where=lambda site: "attn" in site.scope) == [QUERY, LOGITS]


def test_where_is_asked_last():
    """So that it may rely on what the other selectors ask for."""
    assert chosen(op="dot_general", where=lambda site: len(site.equation.rhs) == 3) == [
        QUERY,
        UP_GRAD,
    ]


@pytest.mark.parametrize(
    ("role", "sites"),
    [
        (None, [UP, DOWN, QUERY, EXPERTS]),
        ("forward", [UP, DOWN, QUERY, EXPERTS]),
        ("activations", [LOGITS]),
        (("activations", "drhs"), [LOGITS, UP_GRAD]),
        ("dlhs", []),
        ("*", list(MODEL)),
    ],
)
def test_role(role, sites):
    assert chosen(role=role) == sites


@pytest.mark.parametrize("role", ROLES)
def test_every_role_can_be_named_and_only_forward_goes_without(role):
    site = StandIn(role=role)
    assert chosen([site], role=role) == [site]
    assert chosen([site], role="*") == ([] if role == "lookup" else [site])
    assert chosen([site], role=None) == ([site] if role == "forward" else [])


def test_all_selectors_must_fit():
    assert chosen(scope="**/up", role="drhs") == [UP_GRAD]
    assert chosen(path="**/mlp/**", einsum="BTD,NDH->BTNH") == []
