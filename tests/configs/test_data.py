"""Rules as data: the same rules back, in every kind of file; and clear words for all else."""

import json

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qpass
from qpass.cli import target
from qpass.configs import load_rules, rules_from_data, rules_to_data, save_rules
from qpass.errors import RuleError, UnknownTypeError
from qpass.numerics import QPASS

TEXTS = ["int8", "int4 g32 asym", "fp8_e4m3", "nf4 g64", "int8 tensor mse", "uint4 asym"]
GRADS = ["int8", "fp8_e5m2 sr", "fp8_e5m2", "int8 g32"]
paths = st.sampled_from(["**/mlp/**", ("a", "b/*"), "re:layers/[0-9]+/.*"])
selectors = st.fixed_dictionaries(
    {},
    optional={
        "path": paths,
        "scope": paths,
        "einsum": st.sampled_from(["BTD,NDH->BTNH", "...d,df->...f"]),
        "op": st.sampled_from(["dot_general", "ragged_dot", ("conv", "dot_general")]),
        "name": st.sampled_from(["mine", "a rule"]),
    },
)
dtypes = st.sampled_from([None, "bfloat16"])
backward = st.builds(
    qpass.Backward,
    st.sampled_from(GRADS),
    st.sampled_from([None, "int8"]),
    st.sampled_from(["original", "forward"]),
)
decisions = st.one_of(
    st.just({"keep": True}),
    st.fixed_dictionaries(
        {"weight": st.sampled_from(TEXTS)},
        optional={
            "act": st.sampled_from(["int8", "int8 asym", "int8 static"]),
            "grad": st.sampled_from(GRADS[:3]),
            "dlhs": backward,
            "drhs": backward,
            "lora": st.builds(qpass.LoRA, st.integers(1, 9), st.floats(1, 9), dtype=dtypes),
            "sparsity": st.builds(qpass.NM, st.just(2), st.just(4), st.integers(0, 9)),
        },
    ),
    st.fixed_dictionaries(
        {"role": st.just("qk"), "act": st.just("int8")}, optional={"smooth": st.just(True)}
    ),
)
CACHE = qpass.Rule(cache="**/cached_key", store="int4 g32", per=(0, 1))


@st.composite
def rules(draw):
    found = []
    for _ in range(draw(st.integers(0, 3))):
        try:
            found.append(qpass.Rule(**draw(selectors), **draw(decisions)))
        except RuleError:  # a contradiction, which data cannot say either
            found.append(CACHE)
    return tuple(found)


@given(rules())
def test_the_same_rules_come_back(given_rules):
    data = rules_to_data(given_rules)
    assert rules_from_data(json.loads(json.dumps(data))) == given_rules
    assert rules_from_data({"rules": data}) == given_rules


@pytest.mark.parametrize("name", qpass.presets.PRESETS)
def test_presets(name):
    made = qpass.presets.PRESETS[name]()
    made = (made,) if isinstance(made, qpass.Rule) else tuple(made)
    assert rules_from_data(rules_to_data(made)) == made


def test_what_is_written(tmp_path):
    made = [
        qpass.Rule(path="**/router/**", keep=True),
        qpass.Rule(path=("a", "b"), weight="int4 g32", dlhs="fp8_e5m2"),
        qpass.Rule(weight="int8", lora=qpass.LoRA(rank=4), sparsity=qpass.NM(2, 4, every=10)),
    ]
    save_rules(tmp_path / "rules.json", made)
    assert (tmp_path / "rules.json").read_text() == (
        "[\n"
        '  {"path": "**/router/**", "keep": true},\n'
        '  {"path": ["a", "b"], "weight": "int4 g32", "dlhs": {"grad": "fp8_e5m2"}},\n'
        '  {"weight": "int8", "lora": {"rank": 4, "alpha": 16.0}, '
        '"sparsity": {"n": 2, "m": 4, "every": 10}}\n'
        "]\n"
    )
    assert load_rules(tmp_path / "rules.json") == tuple(made)


def test_toml_as_people_write_it(tmp_path):
    file = tmp_path / "rules.toml"
    file.write_text(
        '[[rules]]\npath = "**/router/**"\nkeep = true\n\n'
        '[[rules]]\nweight = "int4 g32"\ndlhs = "fp8_e5m2"\nlora = {rank = 4}\n'
    )
    assert load_rules(file) == (
        qpass.Rule(path="**/router/**", keep=True),
        qpass.Rule(weight="int4 g32", dlhs="fp8_e5m2", lora=qpass.LoRA(rank=4)),
    )


def test_yaml(tmp_path):
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    made = (qpass.Rule(path=("a", "b"), weight="int4 g32"), CACHE)
    save_rules(tmp_path / "rules.yaml", made)
    assert load_rules(tmp_path / "rules.yaml") == made
    (tmp_path / "rules.yaml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(RuleError, match=r"Mend .*rules\.yaml"):
        load_rules(tmp_path / "rules.yaml")


class Own:
    """An initializer of one's own."""

    def __call__(self, key, shape, dtype):
        return jax.numpy.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (qpass.Rule(where=lambda site: True, weight="int8"), "Write where= in Python"),
        (qpass.Rule(weight="int8", lora=qpass.LoRA(init_a=Own())), "Write lora= in Python"),
    ],
)
def test_what_is_no_data(rule, text):
    with pytest.raises(RuleError, match=rf"{text}.* The rule: "):
        rules_to_data(rule)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("int8", "Give a list of rules"),
        ({"rule": []}, "Put rules under 'rules'"),
        ([7], "Give rule 0 as names and values"),
        ([{"keep": True}, {"wieght": "int8"}], r"Leave 'wieght' out of rule 1.*weight"),
        ([{"where": "x", "weight": "int8"}], "Leave 'where' out of rule 0"),
        ([{"weight": "int8", "lora": {"size": 3}}], "Leave 'size' out of lora"),
        ([{"weight": {"type": "int8"}}], "Give weight a text"),
        ([{"weight": 8}], "rule 0"),
        ([{"weight": "int8", "sparsity": {"n": 2}}], "rule 0"),
        ([{"weight": "int8", "path": ""}], r"Give path= a text .*rule 0"),
        ([{}], r"Decide something.*rule 0"),
    ],
)
def test_what_is_no_rule(data, text):
    with pytest.raises(RuleError, match=text):
        rules_from_data(data)


def test_an_unknown_type_keeps_its_error():
    with pytest.raises(UnknownTypeError, match=r"\(rule 0\)"):
        rules_from_data([{"weight": "int9"}])


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("rules.txt", "[]", r"ends in .*\.json"),
        ("rules.json", "[", r"Mend .*rules\.json"),
        ("rules.json", "[" * 100_000, r"Mend .*rules\.json"),
        ("rules.toml", "= 3", r"Mend .*rules\.toml"),
        ("rules.json", "[{}]", r"In .*rules\.json"),
        ("rules.json", None, "can be read"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, text):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(RuleError, match=text):
        load_rules(tmp_path / name)


def test_the_command_line_takes_a_file(tmp_path):
    save_rules(tmp_path / "rules.json", CACHE)
    assert target.load_rules(str(tmp_path / "rules.json")) == (CACHE,)


def test_a_dialect_that_was_asked_for_is_written():
    rule = qpass.Rule(weight="int8 qwix", act="int8").in_dialect(QPASS)
    assert rules_to_data(rule) == [{"weight": "int8 qwix", "act": "int8 qpass"}]
    assert rules_from_data(rules_to_data(rule)) == (rule,)
