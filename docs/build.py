"""Write the generated parts of the documentation: examples, numerics, performance.

``python docs/build.py`` puts every example file, and the table of types, into its page.
``--numerics`` measures the errors of all types again; ``--performance`` rewrites the performance
page, its pictures and its pages of all figures from ``bench/results``; ``--training`` their parts
of the pages on training and experts; ``--frameworks`` runs the tests behind the table of frameworks
and transforms.
"""

import argparse
import contextlib
import io
import json
import re
import runpy
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

from rich.console import Console

from qpass_bench.pages import experts, numeric_types, performance, training
from qpass_bench.running.progress import Stages

DOCS = Path(__file__).parent
MARK = re.compile(r"(<!-- example: (\S+) -->)(?:\n+```python\n.*?```)?", re.DOTALL)
OUTPUT = re.compile(r"(<!-- output: (\S+), ([\w ]+) -->)(?:\n+```text\n.*?```)?", re.DOTALL)
FIGURES = re.compile(r"(<!-- figures: ([\w-]+) -->).*?(<!-- end of figures -->)", re.DOTALL)
TYPES = re.compile(r"(<!-- table: types -->)(?:\n+\|[^\n]*(?:\n\|[^\n]*)*)?")


def put_examples() -> None:
    """Copy every example, what it prints, and the table of types into the pages that name them."""
    for page in DOCS.glob("*.md"):
        text = MARK.sub(_block, page.read_text(encoding="utf-8"))
        page.write_text(TYPES.sub(_types, OUTPUT.sub(_printed, text)), encoding="utf-8")


def _types(match: re.Match) -> str:
    return f"{match[1]}\n\n{numeric_types.types().rstrip()}"


def _block(match: re.Match) -> str:
    code = (DOCS / "examples" / match[2]).read_text(encoding="utf-8")
    return f"{match[1]}\n\n```python\n{code}```"


def _printed(match: re.Match) -> str:
    return f"{match[1]}\n\n```text\n{outputs(match[2])[match[3]]}\n```"


@cache
def outputs(name: str) -> dict[str, str]:
    """What an example prints, by the headings in it: lines such as ``--- stored``."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(DOCS / "examples" / name))
    parts = re.split(r"^--- (.+)$", printed.getvalue(), flags=re.MULTILINE)
    return {
        heading: text.strip("\n") for heading, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def main() -> None:
    """Parse the command line and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numerics", action="store_true")
    parser.add_argument("--performance", action="store_true")
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--frameworks", action="store_true")
    arguments = parser.parse_args()
    put_examples()
    if arguments.numerics:
        _numerics()
    if arguments.performance:
        _performance()
    if arguments.training:
        _training()
    if arguments.frameworks:
        _frameworks()


def _performance() -> None:
    """The page on performance, and the pictures and pages that it points to."""
    results = performance.read(DOCS.parent / "bench" / "results")
    for name, make in performance.files(results).items():
        (DOCS / name).write_text(make(), encoding="utf-8")
    (DOCS / "performance.md").write_text(performance.performance(results), encoding="utf-8")


SECTIONS = {
    "train-demo": training.section,
    "train": training.steps_section,
    "experts": experts.section,
}


def _training() -> None:
    """The figures on the pages on training and experts that there are runs of, and the curves."""
    for page in (DOCS / "training.md", DOCS / "experts.md"):
        text = FIGURES.sub(_figures, page.read_text(encoding="utf-8"))
        page.write_text(text, encoding="utf-8")
    if _path("train-demo-cpu").is_file():
        picture = training.picture(_result("train-demo-cpu"))
        (DOCS / "images" / "training.svg").write_text(picture, encoding="utf-8")


def _figures(match: re.Match) -> str:
    if not _path(f"{match[2]}-cpu").is_file():
        return match[0]
    return f"{match[1]}\n\n{SECTIONS[match[2]](_result(f'{match[2]}-cpu')).strip()}\n\n{match[3]}"


def _numerics() -> None:
    """Measure the errors of all types, and write figures, page and plot."""
    from qpass_bench.costs import roundtrip
    from qpass_bench.pages import numerics

    with Stages(Console(stderr=True)).stage("Quantize", roundtrip.EVERYTHING.steps) as tick:
        report = roundtrip.report(roundtrip.arrays(), tick=tick)
    _path("roundtrip").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    page = numerics.page(report, _result("demo-cpu"))
    (DOCS / "numerics.md").write_text(page, encoding="utf-8")
    numerics.plot(report, DOCS / "images" / "roundtrip.svg")


def _frameworks() -> None:
    """Run every cell of the table of frameworks and transforms."""
    sys.path.insert(0, str(DOCS.parent))
    import_module("tests.conftest")  # the devices that the cells run on
    import_module("tests.matrix.table").write()


def _result(name: str) -> dict:
    return json.loads(_path(name).read_text(encoding="utf-8"))


def _path(name: str) -> Path:
    return DOCS.parent / "bench" / "results" / f"{name}.json"


if __name__ == "__main__":
    main()
