"""Sections written from runs of the benchmark: every figure where it belongs, reasons, pictures."""

import pytest

from qpass_bench.pages import performance, plots, speed
from tests.bench.pages.test_report import ROOF, row
from tests.bench.running.test_regressions import MACHINE


def product(m, variant, ratio, **more):
    sizes = {"kind": "product", "m": m, "k": 8, "n": 16}
    kind = more.pop("kind", "float" if variant.startswith(("float", "bfloat")) else "qpass")
    ratios = [ratio * factor for factor in (0.9, 1.0, 1.2)]
    return row("products", f"up 8x16 M={m}", variant, ratio, **{
        "sizes": sizes, "kind": kind, "ratios": ratios, **more
    })  # fmt: skip


ROWS = [
    product(1, "float32", 0.5, ms=2.0),
    product(1, "float32 [out, in]", 1.0, ms=1.5),
    product(1, "bfloat16", 0.7),
    product(1, "bfloat16 [out, in]", 1.4),
    product(1, "int8 W8A8", 4.0),
    product(1, "int8 W8A8 (XLA)", 1.5),
    product(1, "Qwix W8", 0.4, kind="Qwix"),
    product(1, "torchao int8", 1.9, kind="torchao"),
    product(512, "float32 [out, in]", 1.0, ms=30.0),
    product(512, "int8 W8A8", 2.0),
    product(512, "int4 W4", 0.6, bound="compute", planned=["about 0.7× of it: multiplies slowly"]),
    product(1024, "int4 W4", 0.5, bound="compute", planned=["about 0.6× of it: multiplies slowly"]),
    product(2048, "int4 W4", 0.9, bound="memory"),
]


def report(suite="products", rows=ROWS, **options):
    return {
        "date": "2025-01-01", "machine": {**MACHINE, "qpass": "0.1", "memory_gb": 8}, "rounds": 20,
        "sittings": 5, "roofline": ROOF, "rows": rows, "missing": [], "peers": {"Qwix": "0.1.8"},
        "skipped": [{"suite": suite, "case": "huge", "why": "needs 99 GB"}],
        "options": {"suite": suite, "pattern": "", "only": "", "rounds": None, **options},
    }  # fmt: skip


def lines_of(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def test_a_case_shows_its_float_its_schemes_and_the_best_other_library():
    table = speed.by_case(ROWS).splitlines()
    assert table[0] == "|  | float32 | bfloat16 | int8 W8A8 | int4 W4 | best of others |"
    assert table[2] == (
        "| up 8x16 M=1 | 1.5 ms [out, in] | 1.40× | 4.00× [3.60, 4.80] 46% |  "
        "| 1.90× torchao int8 |"
    )


def test_schemes_are_summed_up_by_how_many_rows_there_are():
    table = speed.by_rows(ROWS)
    assert lines_of(table, "| int8 W8A8 |") == [
        "| int8 W8A8 | 4.00 to 4.00, median 4.00× | 2.00 to 2.00, median 2.00× |"
    ]
    assert lines_of(table, "| int4") == ["| int4 W4 |  | 0.50 to 0.90, median 0.60× |"]
    assert lines_of(table, "| int8 W8A8 (XLA)")


def test_what_is_slower_is_listed_by_what_binds_and_what_the_plan_says():
    assert list(speed.slower(ROWS)) == [
        'int4 W4: 0.50× at up 8x16 M=1024, and 1 more; compute binds; the plan says "multiplies '
        'slowly".',
        "int4 W4: 0.90× at up 8x16 M=2048; memory binds; the plan says nothing.",
    ]


def test_a_section_says_how_it_was_made():
    text = speed.section("products", report(pattern="plain product", rounds=9))
    assert "`qpass bench products --filter 'plain product' --rounds 9`" in text
    for words in (MACHINE["cpu"], "Qwix 0.1.8", "huge was skipped: needs 99 GB", "float32 100"):
        assert words in text


def test_models_have_a_row_for_each_contender():
    sizes = {"kind": "decode"}
    own = [row("models", "decode", name, ratio, sizes=sizes) for name, ratio in
           (("float32", 1.0), ("int8 W8A8", 3.0))]  # fmt: skip
    text = speed.section("models", report("models", own))
    assert "decode:\n" in text
    assert "| int8 W8A8 | 0.0 | 1.23 | 810.4 | 3.00× [2.97, 3.03] 46% | memory |" in text
    assert "Nothing is." in text


def test_random_shapes_have_a_row_for_each_scheme():
    own = [row("sweep", f"#{n}", "int8 W8", ratio) for n, ratio in enumerate((0.5, 1.5))]
    text = speed.section("sweep", report("sweep", own))
    assert "| int8 W8 | 2 | 0.50× | 0.50× | 1.50× | 1 | 1 | #0 |" in text


def test_there_is_a_section_for_each_run_and_none_without():
    assert speed.sections({}) == ""
    text = speed.sections({"sweep": report("sweep", []), "products": report(), "demo": {}})
    heads = lines_of(text, "## ")
    assert heads == ["## How fast products are", "## Speed of single products",
                     "## Speed of random shapes"]  # fmt: skip


def test_pictures_and_pages_that_a_section_names_are_written():
    results = {"demo": {"variants": []}, "sweep": report("sweep", ROWS)}
    written = {name: make() for name, make in performance.files(results).items()}
    text = speed.section("sweep", results["sweep"])
    for name in ("images/speed-sweep.svg", "images/roofline-sweep.svg"):
        assert f"({name})" in text
        assert written[name].startswith("<?xml")
    assert "(bench-sweep.html)" in text
    assert "up 8x16 M=1" in written["bench-sweep.html"]


def test_pictures_of_the_same_figures_are_the_same():
    assert plots.svg(plots.speed(ROWS[4:6])) == plots.svg(plots.speed(ROWS[4:6]))


@pytest.mark.parametrize(("m", "name"), [(1, "M = 1"), (16, "M = 2 to 16"), (17, "more rows")])
def test_products_are_told_apart_by_rows(m, name):
    assert name in speed.by_rows([product(m, "int8 W8", 1.0)])


def test_the_roof_has_the_better_float_only():
    own = [r for r in speed.under_the_roof(ROWS) if r["variant"].startswith("float")]
    assert [r["ms"] for r in own] == [1.5, 30.0]
    assert "int8 W8A8 (XLA)" not in {r["variant"] for r in speed.under_the_roof(ROWS)}
    assert plots.roofline(own, ROOF).axes
