"""The schemas of what commands print with --json (docs/schemas/)."""

import json
from pathlib import Path
from typing import Any

import jsonschema

DIRECTORY = Path(__file__).parents[2] / "docs/schemas"


def schema(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text())
    return read


def strict(of: Any) -> Any:
    """The schema with no further keys allowed: what is told is to be described."""
    if isinstance(of, list):
        return [strict(each) for each in of]
    if not isinstance(of, dict):
        return of
    closed = {"additionalProperties": False} if isinstance(of.get("properties"), dict) else {}
    return {name: strict(each) for name, each in of.items()} | closed


def validated(told: Any) -> Any:
    """What was told, after it was compared with the schema that it names."""
    told = json.loads(told) if isinstance(told, str) else json.loads(json.dumps(told))
    jsonschema.validate(
        told, strict(schema(told["schema"].removeprefix("yaim.").replace("/", "-")))
    )
    return told
