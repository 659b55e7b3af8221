"""Write the generated parts of the documentation: examples, numerics, performance.

``python docs/build.py`` puts every example file into its page. ``--numerics`` measures the errors
of all types again; ``--performance`` rewrites the performance page from ``bench/results``.
"""

import argparse
import json
import re
from pathlib import Path

from qpass_bench import pages

DOCS = Path(__file__).parent
MARK = re.compile(r"(<!-- example: (\S+) -->\n+)(?:```python\n.*?```)?", re.DOTALL)


def put_examples() -> None:
    """Copy every example into the page that names it."""
    for page in DOCS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(MARK.sub(_block, text), encoding="utf-8")


def _block(match: re.Match) -> str:
    code = (DOCS / "examples" / match[2]).read_text(encoding="utf-8")
    return f"{match[1]}```python\n{code}```"


def main() -> None:
    """Parse the command line and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numerics", action="store_true")
    parser.add_argument("--performance", action="store_true")
    arguments = parser.parse_args()
    put_examples()
    if arguments.numerics:
        (DOCS / "numerics.md").write_text(pages.numerics(), encoding="utf-8")
    if arguments.performance:
        demo, heldout = (_result(name) for name in ("demo-cpu", "heldout-cpu"))
        (DOCS / "performance.md").write_text(pages.performance(demo, heldout), encoding="utf-8")


def _result(name: str) -> dict:
    path = DOCS.parent / "bench" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
