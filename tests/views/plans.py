"""Rows as a small decoder with scanned, and with unrolled, layers would give."""

from dataclasses import replace

from qpass.views import Row

RULE = 'Rule(path="layers/**", weight="int8", act="int8")'

QUERY = Row(
    id="layers/attn/q/dot_general.0",
    op="dot_general",
    equation="BTD,DNH->BTNH",
    role="forward",
    lhs="f32[1,512,576]",
    rhs="f32[576,9,64]",
    out="f32[1,512,9,64]",
    weight="layers/attn/q/kernel",
    scope="decoder/layers/attn/q",
    source="decoder.py:41",
    rule=1,
    rule_text=RULE,
    scheme="int8 x int8",
    kernel="cpu_int8",
    refused=(("hopper_int8", "runs on cuda, not on cpu"),),
    bytes_before=39_813_120,
    bytes_after=10_022_400,
    count=30,
)
SCORES = Row(
    id="layers/attn/dot_general.0",
    op="dot_general",
    equation="BTNH,BSNH->BNTS",
    role="activations",
    lhs="f32[1,512,9,64]",
    rhs="f32[1,512,9,64]",
    out="f32[1,9,512,512]",
    count=30,
    reason="both operands are activations",
)
HEAD = Row(
    id="dot_general.0",
    op="dot_general",
    equation="BTD,VD->BTV",
    role="forward",
    lhs="f32[1,512,576]",
    rhs="f32[49152,576]",
    out="f32[1,512,49152]",
    weight="embedding",
    rule=0,
    rule_text='Rule(path="embedding", weight="int4")',
    scheme="int4 weight-only",
    kernel="reference",
    bytes_before=113_246_208,
    bytes_after=14_352_384,
    notes=("dequantized at add in decoder.py:77",),
)
ROUTER = Row(
    id="router/dot_general.0",
    op="dot_general",
    equation="TD,DE->TE",
    role="forward",
    lhs="f32[512,576]",
    rhs="f32[576,8]",
    out="f32[512,8]",
    weight="router/kernel",
    rule=2,
    rule_text='Rule(path="router/**", keep=True)',
    bytes_before=18_432,
    bytes_after=18_432,
    reason="kept float by rule 2",
)
SCANNED = (QUERY, SCORES, HEAD, ROUTER)


def layer(row: Row, number: int) -> Row:
    """The same site in one of many unrolled layers."""

    def named(name: str) -> str:
        return name.replace("layers/", f"layers/{number}/")

    names = {"id": named(row.id), "weight": named(row.weight), "scope": named(row.scope)}
    return replace(row, **names, count=1)


UNROLLED = (*(layer(row, n) for n in range(4) for row in (QUERY, SCORES)), HEAD, ROUTER)
NASTY = replace(
    QUERY,
    id='<b>"q" & [red]\\x[/red]</b>',
    weight="</script><script>alert(1)</script>",
    rule_text="'\"><img src=x onerror=alert(1)>",
    notes=("a\nb", "[/]"),
)
