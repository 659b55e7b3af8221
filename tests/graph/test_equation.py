"""Equations, held against jnp.einsum's own programs and a search over all renamings of letters."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpass.errors import RuleError
from qpass.graph.equation import (
    Equation,
    dot_equation,
    matches,
    parse_equation,
    parse_terms,
    same_text,
)

# Weight second, with the axes of the weight that the product sums over.
TABLE = {
    "BTD,NDH->BTNH": (1,),
    "BSD,CKDH->CBSKH": (2,),
    "BTNH,NHD->BTD": (0, 1),
    "...F,NHF->...NH": (2,),
    "...H,HF->...F": (0,),
    "...F,NFH->...NH": (1,),
    "BTD,SNDH->SBTNH": (2,),
    "gecd,ekfd->kgecf": (3,),
    "btd,cfd->btcf": (2,),
    "BuwNH,FNH->BNuwF": (2,),
}


def dots(text, *shapes):
    """The equations of the dot_generals that jnp.einsum emits."""
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program = jax.make_jaxpr(lambda *operands: jnp.einsum(text, *operands))(*args)
    return [
        dot_equation(*(v.aval.ndim for v in eqn.invars), eqn.params["dimension_numbers"])
        for eqn in program.jaxpr.eqns
        if eqn.primitive.name == "dot_general"
    ]


def the_dot(text, dims="ij"):
    """The one dot_general of a text of two operands; "..." stands for `dims`, all sizes differ."""
    explicit = text.replace("...", dims)
    size = {letter: index + 2 for index, letter in enumerate(sorted(set(explicit) - set(",->")))}
    lhs, rhs = explicit.partition("->")[0].split(",")
    (found,) = dots(text, [size[c] for c in lhs], [size[c] for c in rhs])
    return found


def oracle(pattern, equation):
    """Try every renaming of letters, in both orders of the operands. No summed letters, no dots."""
    letters = sorted(set(pattern.lhs + pattern.rhs))
    others = sorted(set(equation.lhs + equation.rhs))
    if len(letters) != len(others):
        return False
    for order in permutations(others):
        table = str.maketrans(dict(zip(letters, order, strict=True)))
        lhs, rhs, out = (t.translate(table) for t in (pattern.lhs, pattern.rhs, pattern.out))
        if set(out) != set(equation.out):
            continue
        if (lhs, rhs) in [(equation.lhs, equation.rhs), (equation.rhs, equation.lhs)]:
            return True
    return False


@st.composite
def contractions(draw, most=4):
    """Random equations without summed letters: each letter is batch, contracted or free."""
    roles = draw(st.lists(st.sampled_from(["batch", "contract", "lhs", "rhs"]), max_size=most))
    letters = dict(zip("abcdef", roles, strict=False))
    lhs = [c for c, role in letters.items() if role != "rhs"]
    rhs = [c for c, role in letters.items() if role != "lhs"]
    out = [c for c, role in letters.items() if role != "contract"]
    return Equation(*("".join(draw(st.permutations(term))) for term in (lhs, rhs, out)))


@st.composite
def rewritten(draw, equation):
    """Return the same contraction written another way."""
    letters = sorted(set(equation.lhs + equation.rhs))
    table = str.maketrans(dict(zip(letters, draw(st.permutations("uvwxyz")), strict=False)))
    lhs, rhs = (term.translate(table) for term in (equation.lhs, equation.rhs))
    out = "".join(draw(st.permutations(equation.out.translate(table))))
    return draw(st.sampled_from([Equation(lhs, rhs, out), Equation(rhs, lhs, out)]))


# ---- from dimension numbers


@pytest.mark.parametrize(
    ("ranks", "dimension_numbers", "text"),
    [
        ((2, 2), (((1,), (0,)), ((), ())), "ab,bc->ac"),
        ((2, 2), (((1,), (1,)), ((), ())), "ab,cb->ac"),
        ((3, 3), (((2,), (1,)), ((0,), (0,))), "abc,acd->abd"),
        ((3, 3), (((2,), (1,)), ((), ())), "abc,dce->abde"),
        ((4, 3), (((2, 3), (0, 1)), ((), ())), "abcd,cde->abe"),
        ((3, 4), (((0,), (3,)), ((2, 1), (0, 1))), "abc,cbda->cbd"),
        ((1, 1), (((0,), (0,)), ((), ())), "a,a->"),
        ((1, 1), (((), ()), ((), ())), "a,b->ab"),
        ((0, 2), (((), ()), ((), ())), ",ab->ab"),
    ],
)
def test_equation_of_dimension_numbers(ranks, dimension_numbers, text):
    assert str(dot_equation(*ranks, dimension_numbers)) == text


def test_equation_of_many_dimensions_has_a_letter_for_each():
    equation = dot_equation(40, 40, (((0,), (39,)), ((), ())))
    assert len(set(equation.lhs + equation.rhs)) == 79
    assert parse_equation(str(equation)) == equation


@given(contractions())
def test_equation_of_a_dot_means_what_the_dot_computes(equation):
    """numpy reads our equation and gives what lax gives for the dimension numbers."""
    contract = equation.contracted()
    batch = [c for c in equation.out if c in equation.lhs and c in equation.rhs]
    numbers = tuple(
        tuple(tuple(term.index(c) for c in group) for term in (equation.lhs, equation.rhs))
        for group in (contract, batch)
    )
    size = {c: i + 2 for i, c in enumerate("abcdef")}
    rng = np.random.default_rng(0)
    lhs, rhs = (rng.integers(-3, 4, [size[c] for c in t]) for t in (equation.lhs, equation.rhs))
    ours = dot_equation(lhs.ndim, rhs.ndim, numbers)
    expected = jax.lax.dot_general(jnp.asarray(lhs), jnp.asarray(rhs), numbers)
    np.testing.assert_array_equal(np.einsum(str(ours), lhs, rhs), expected)


# ---- from text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("ab,bc->ac", "ab,bc->ac"),
        (" BTD , NDH -> BTNH ", "BTD,NDH->BTNH"),
        ("B T D,N D H->B T N H", "BTD,NDH->BTNH"),
        ("...k,kn->...n", "...k,kn->...n"),
        ("ij,jk", "ij,jk->ik"),
        ("ba,ca", "ba,ca->bc"),
        ("zb,ya", "zb,ya->abyz"),
        ("...ij,jk", "...ij,jk->...ik"),
        ("ij,ij", "ij,ij->"),
        (",ab->ab", ",ab->ab"),
    ],
)
def test_parse(text, written):
    equation = parse_equation(text)
    assert str(equation) == written
    assert parse_equation(written) == equation


@given(st.lists(st.sampled_from("abcz"), max_size=3), st.lists(st.sampled_from("abcz"), max_size=3))
def test_implicit_output_is_numpys(lhs, rhs):
    arrays = [np.arange(2 ** len(term)).reshape([2] * len(term)) for term in (lhs, rhs)]
    text = f"{''.join(lhs)},{''.join(rhs)}"
    np.testing.assert_array_equal(
        np.einsum(text, *arrays), np.einsum(str(parse_equation(text)), *arrays)
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("ab->ab", "has 1 operand"),
        ("ab,bc,cd->ad", "has 3 operand"),
        ("BTD->BTNH->N", "more than one '->'"),
        ("ab,b1->a", "'1' in 'b1' is not a letter"),
        ("ab,bc>ac", "'>' in 'bc>ac' is not a letter"),
        ("ab;bc->ac", "';' in 'ab;bc' is not a letter"),
        ("..a,ab->b", "has dots that are not '...'"),
        ("....a,ab->b", "has dots that are not '...'"),
        ("...a...,ab->b", "'...' more than once"),
        ("......,ab->b", "'...' more than once"),
        ("ab,bc->aac", "'a' is twice in the output"),
        ("ab,bc->ad", "'d' is in the output only"),
        ("ab,bc->...ac", "'...' is in the output only"),
        ("ab,bc->a,c", "is not a letter"),
    ],
)
def test_malformed_text_is_an_error_with_words(text, words):
    with pytest.raises(RuleError) as error:
        parse_equation(text)
    assert words in str(error.value)


def test_parse_terms_reads_any_number_of_operands():
    assert parse_terms("bsd, df, fe -> bse") == (("bsd", "df", "fe"), "bse")


# ---- comparison, with the programs that jnp.einsum emits


@pytest.mark.parametrize("text", TABLE)
def test_the_product_that_einsum_emits_matches_the_users_text(text):
    assert matches(text, the_dot(text))


@pytest.mark.parametrize("text", TABLE)
@pytest.mark.parametrize("other", TABLE)
def test_each_text_of_the_table_matches_only_its_own_structure(text, other):
    pattern, found = text.replace("...", "ij"), the_dot(other)
    assert matches(pattern, found) == oracle(parse_equation(pattern), found)


@pytest.mark.parametrize(("text", "axes"), TABLE.items())
def test_contracted_letters_name_the_reduced_axes_of_the_weight(text, axes):
    equation = parse_equation(text)
    assert tuple(equation.rhs.index(c) for c in equation.contracted()) == axes


@pytest.mark.parametrize("dims", ["", "i", "ij", "ijk"])
@pytest.mark.parametrize(
    "text", ["...F,NHF->...NH", "...H,HF->...F", "...qhd,...khd->...hqk", "a...b,b...->...a"]
)
def test_dots_stand_for_any_number_of_dimensions(text, dims):
    assert matches(text, the_dot(text, dims))


def test_output_order_and_operand_order_do_not_matter():
    texts = ["BTD,NDH->BTNH", "BTD,NDH->BNTH", "BTD,NDH->NHBT", "NDH,BTD->BTNH"]
    assert all(matches(pattern, the_dot(text)) for pattern in texts for text in texts)


def test_the_position_of_the_contracted_letter_matters():
    assert not matches("BTD,NDH->BTNH", the_dot("BTD,DNH->BTNH"))
    assert not matches("BTD,NDH->BTNH", the_dot("BTD,NHD->BTNH"))


def test_batch_contracted_and_free_letters_are_told_apart():
    texts = [
        "ab,ab->",
        "ab,ab->a",
        "ab,ab->b",
        "ab,ab->ab",
        "ab,bc->ac",
        "ab,ac->bc",
        "ab,cd->abcd",
    ]
    for text in texts:
        assert [other for other in texts if matches(other, the_dot(text))] == [text]


def test_more_letters_than_dimensions_do_not_match():
    assert not matches("...BTD,NDH->...BTNH", the_dot("ab,cbd->acd"))


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("ab,bcd->ac", [(2, 3), (3, 4, 5)]),
        ("ab,bc->", [(2, 3), (3, 4)]),
        ("...i,i->", [(2, 3), (3,)]),
        ("...i,...i->", [(2, 3), (2, 3)]),
        ("...i,...i->", [(2, 3), (3,)]),
        ("aab,bc->ac", [(2, 2, 3), (3, 4)]),
        ("aba,bc->ac", [(2, 3, 2), (3, 4)]),
        ("aab,bc->c", [(2, 2, 3), (3, 4)]),
    ],
)
def test_dimensions_that_einsum_sums_before_the_product_are_not_looked_for(text, shapes):
    (found,) = dots(text, *shapes)
    assert matches(text, found)


def test_dots_are_aligned_at_the_right_as_numpy_does():
    (found,) = dots("...k,...k->...", (2, 3, 4), (3, 4))
    assert str(found) in ("abc,bc->ba", "ab,cab->ac")
    assert matches("...k,...k->...", found)
    assert not matches("...k,...k->...", parse_equation("abc,ac->ab"))
    assert not matches("...k,...k->...", parse_equation("ak,bk->ab"))


def test_a_stretched_dimension_leaves_the_product():
    """What the docstring of `matches` warns of: sizes decide, and an equation has none."""
    (found,) = dots("bqk,bkd->bqd", (2, 3, 4), (1, 4, 5))
    assert not matches("bqk,bkd->bqd", found)
    assert matches("bqk,kd->bqd", found)


def test_dots_on_both_sides_are_one_symbol():
    pattern = parse_equation("...d,ndh->...nh")
    assert matches("...x,yxz->...yz", pattern)
    assert matches("yxz,...x->yz...", pattern)
    assert not matches("ax,yxz->ayz", pattern)
    assert not matches("x...,yxz->...yz", pattern)


@given(contractions())
def test_any_contraction_matches_what_einsum_emits(equation):
    assert matches(equation, the_dot(str(equation)))


@given(contractions(), contractions())
def test_matching_agrees_with_trying_every_renaming(equation, other):
    found = the_dot(str(other))
    assert matches(equation, found) == oracle(equation, found)


@given(st.data(), contractions())
def test_the_same_contraction_written_otherwise_matches(data, equation):
    other = data.draw(rewritten(equation))
    assert oracle(equation, other)
    assert matches(equation, other)
    assert matches(other, equation)


@given(st.data(), contractions())
def test_two_letters_exchanged_in_one_operand_agree_with_the_search(data, equation):
    """Near misses, which two independent random equations rarely are."""
    rhs = "".join(data.draw(st.permutations(equation.rhs)))
    other = data.draw(rewritten(Equation(equation.lhs, rhs, equation.out)))
    assert matches(equation, other) == oracle(equation, other)


@given(
    st.integers(0, 2), st.integers(0, 2), st.sampled_from(["...q,k...->...qk", "...q,...q->..."])
)
def test_dots_of_different_ranks_match_what_einsum_emits(lhs_extra, rhs_extra, text):
    lhs, rhs = text.partition("->")[0].split(",")
    sizes = {"q": 7, "k": 8}
    shapes = [
        [s for c in term.replace("...", ".") for s in ((2, 3)[2 - n :] if c == "." else [sizes[c]])]
        for term, n in ((lhs, lhs_extra), (rhs, rhs_extra))
    ]
    (found,) = dots(text, *shapes)
    assert matches(text, found)


# ---- texts


@pytest.mark.parametrize(
    ("pattern", "text", "same"),
    [
        ("BTD,NDH->BTNH", "btd,ndh->bnth", True),
        ("BTD,NDH->BTNH", "btd,dnh->btnh", False),
        ("...D,NDH->...NH", "BTD,NDH->BTNH", True),
        ("...D,NDH->...NH", "...d,xdh->...xh", True),
        ("BTD,NDH->BTNH", "...D,NDH->...NH", False),
        ("bsd,df,fe->bse", "abc,cd,de->abe", True),
        ("bsd,df,fe->bse", "abc,cd,ed->abe", False),
        ("bsd,df,fe->bse", "abc,cd->abd", False),
        ("ij->ji", "ab->ba", True),
        ("ij->ji", "ab->ab", False),
    ],
)
def test_same_text(pattern, text, same):
    assert same_text(pattern, text) == same
