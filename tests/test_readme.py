"""The README's example prints what the README says."""

import contextlib
import io
import json
import re
from pathlib import Path

from tests.helpers import with_compiled_kernels

README = Path(__file__).parents[1] / "README.md"


@with_compiled_kernels
def test_example_prints_what_is_shown():
    text = README.read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    shown = re.search(r"```text\n(.*?)```", text, re.DOTALL)[1]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(README), "exec"), {"__name__": "readme"})
    assert _lines(printed.getvalue()) == _lines(shown)


def _lines(text):
    return [line.rstrip() for line in text.strip().splitlines()]


def test_figures_are_those_of_the_committed_run():
    text = README.read_text(encoding="utf-8")
    results = README.parent / "bench" / "results"
    variants = json.loads((results / "demo-cpu.json").read_text(encoding="utf-8"))["variants"]
    rows = {
        "parameters, MB": [
            f"{v['sizes']['bytes'] / 1e6:.0f} ({v['sizes']['ratio']:.2f}×)" for v in variants
        ],
        "perplexity, 4,096 tokens": [
            f"{v['perplexity']:.2f} ({v['perplexity_ratio']:.3f}×)" for v in variants
        ],
        "prefill 128, tokens/s": [_speed(v["speed"]["prefill_128"]) for v in variants],
        "prefill 512, tokens/s": [_speed(v["speed"]["prefill_512"]) for v in variants],
        "decode, tokens/s": [_speed(v["speed"]["decode"]) for v in variants],
    }
    for name, cells in rows.items():
        assert f"| {name} | {' | '.join(cells)} |" in text


def _speed(speed):
    return f"{speed['per_second']:.0f} ({speed['ratio']:.2f}×)"


def test_the_table_of_peers_is_that_of_the_committed_run():
    text = README.read_text(encoding="utf-8")
    path = README.parent / "bench" / "results" / "peers-cpu.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    table = [f"| case | Qwix {result['qwix']} | qpass |", "| --- | --- | --- |"]
    for row in result["rows"]:
        # Of an error the kind is shown, not its words.
        cells = [row["case"], row["qwix"].partition(":")[0], row["qpass"].partition(":")[0]]
        table.append(f"| {' | '.join(cells)} |")
    assert "\n".join(table) + "\n\n" in text
