"""The envelope of the JSON that qpass writes: what it is and of which version."""

import json
from typing import Any

from qpass.errors import PlanError


def write(kind: str, version: int, **content: Any) -> str:
    """A JSON object that says what it is, with `content` below."""
    document = {"format": kind, "version": version, **content}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def read(text: str, kind: str, version: int) -> dict[str, Any]:
    """The object that `write` wrote for the same kind and version.

    Raises:
        PlanError: the text is not JSON, or of another kind or version.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise PlanError(f"Pass JSON written by qpass; this text is not JSON: {error}.") from None
    if not isinstance(document, dict) or document.get("format") != kind:
        raise PlanError(f'Pass JSON written by qpass: no "format": "{kind}" at its top.')
    if document.get("version") != version:
        found = document.get("version")
        raise PlanError(
            f"Write the {kind} again: this qpass reads version {version}, not {found!r}."
        )
    return document
