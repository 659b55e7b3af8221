"""Random programs: hypothesis strategies for the descriptions of `tests.fuzz.programs`."""

from hypothesis import strategies as st

from tests.fuzz import programs as ast
from tests.fuzz.layout import LAYOUT

REF = st.integers(0, 3)
PICK = st.integers(0, 40)
DEPTH = 2
FOLLOWED = ["slice", "dynamic_slice", "row", "transpose", "split", "merge", "reverse"]
OPS = st.sampled_from(FOLLOWED * 3 + sorted(set(LAYOUT) - set(FOLLOWED)))
SHAPES = st.sampled_from(
    [(4, 4), (2, 4), (4, 6), (2, 4, 4), (3, 2, 4), (2, 2, 3, 4), (6,), (1, 4), (3, 1, 2), (6, 6)]
)


def _refs(at_most: int, at_least: int = 0) -> st.SearchStrategy:
    return st.lists(REF, min_size=at_least, max_size=at_most).map(tuple)


DOTS = st.builds(
    ast.Dot,
    x=REF,
    w=st.integers(0, 5),
    style=st.sampled_from(
        ["dot_general"] * 4 + ["einsum", "matmul"] * 2 + ["triple", "values", "weights"]
    ),
    left=st.booleans(),
    batch=st.sampled_from([0, 0, 1, 2]),
    contract=st.sampled_from([1, 1, 2]),
    pick=st.just(0) | PICK,
    wide=st.booleans(),
    views=st.lists(st.tuples(OPS, PICK), max_size=2).map(tuple),
)
VIEWS = st.builds(ast.Layout, op=OPS, of=REF, weight=st.just(True), pick=PICK)
FIRST_ORDER = [
    *[DOTS] * 6,
    *[VIEWS] * 3,
    st.builds(ast.Layout, op=OPS, of=REF, weight=st.just(False), pick=PICK),
    st.builds(ast.Compute, op=st.sampled_from(["double", "sum", "square"]), of=REF, other=REF),
    st.builds(
        ast.Elementwise,
        op=st.sampled_from(["sin", "gelu", "softmax", "add", "multiply", "bias", "where"]),
        of=REF,
        other=REF,
    ),
    st.builds(
        ast.Reduce,
        op=st.sampled_from(["sum", "mean", "cumsum", "logsumexp"]),
        of=REF,
        axis=REF,
    ),
    st.builds(ast.Lookup, w=REF, pick=PICK),
    st.builds(ast.Odd, op=st.sampled_from(["conv", "ragged", "integer"]), x=REF, w=REF),
]


def blocks(depth: int, at_most: int) -> st.SearchStrategy[ast.Block]:
    """Blocks of a few statements, with ``depth`` more levels of nesting inside."""
    return st.lists(statements(depth), min_size=1, max_size=at_most).map(
        lambda found: ast.Block(tuple(found))
    )


def statements(depth: int) -> st.SearchStrategy:
    """A statement; while there is depth, one in three is control flow."""
    return st.one_of([*FIRST_ORDER, *(nested(depth) if depth else [])])


def nested(depth: int) -> list[st.SearchStrategy]:
    """Statements that hold blocks."""
    rest = blocks(depth - 1, at_most=2)
    body = st.builds(lambda dot, more: ast.Block((dot, *more.statements)), DOTS, rest)
    calls = st.builds(
        ast.Call,
        body=body,
        kind=st.sampled_from(["jit", "remat", "saving", "custom_jvp", "custom_vjp"]),
        values=_refs(2, at_least=1),
        weights=_refs(2, at_least=1),
        again=st.none() | REF,
        computed=st.booleans(),
    )
    return [
        st.builds(
            ast.Scan,
            body=body,
            carry=REF,
            stacked=_refs(2, at_least=1),
            rows=_refs(1),
            held=_refs(1),
            update=st.booleans(),
            length=st.integers(1, 3),
            reverse=st.booleans(),
            unroll=st.integers(1, 2),
        ),
        st.builds(
            ast.Loop,
            body=body,
            kind=st.sampled_from(["fori", "dynamic", "while"]),
            carry=REF,
            held=_refs(1),
            update=st.booleans(),
            trips=st.integers(0, 3),
            stop=st.sampled_from([True, True, False]),
            asks=st.booleans(),
        ),
        st.builds(
            ast.Branch,
            branches=st.lists(body, min_size=2, max_size=3).map(tuple),
            like=REF,
            of=REF,
        ),
        *[calls] * 4,
        st.builds(ast.Vmap, body=body, x=REF, w=REF, weight_too=st.booleans()),
    ]


@st.composite
def programs(draw: st.DrawFn) -> ast.Program:
    """A program with three to six parameters: most are read once or twice, so can be stored."""
    params = tuple(draw(st.lists(SHAPES, min_size=3, max_size=6)))
    narrow = st.sampled_from([False, False, False, True])
    return ast.Program(
        body=draw(blocks(DEPTH, at_most=4)),
        params=params,
        narrow=tuple(draw(narrow) for _ in params),
        constant=draw(narrow),
        x=draw(SHAPES),
        outputs=draw(st.integers(1, 3)),
        returned=draw(narrow),
    )
