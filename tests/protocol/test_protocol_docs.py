"""docs/protocol.md and docs/asyncapi.yaml say what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from holdfast.protocol import schema
from holdfast.protocol.frames import ClientFrame, ServerFrame
from holdfast.protocol.wire import JSON, FrameError

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "protocol.md").read_text(encoding="utf-8")
FRAMES = [*get_args(ClientFrame), *get_args(ServerFrame)]
CLIENT_TAGS = {kind.__struct_config__.tag for kind in get_args(ClientFrame)}


def test_codes() -> None:
    """The table of codes is the one of the source."""
    assert f"-->\n{schema.codes_table()}<!-- end of codes -->" in PAGE


def test_asyncapi_is_up_to_date() -> None:
    """asyncapi.yaml is what `make docs` would write."""
    assert (DOCS / "asyncapi.yaml").read_text(encoding="utf-8") == schema.asyncapi_yaml()


@pytest.mark.parametrize("kind", FRAMES, ids=lambda kind: str(kind.__name__))
def test_every_field_is_in_its_row(kind: type[msgspec.Struct]) -> None:
    """Each frame has a row that names each of its fields, in the half of the page that is its sender's."""
    client, server = PAGE.partition("### From the client")[2].split("### From the server")
    half = client if kind in get_args(ClientFrame) else server.partition("\n## ")[0]
    (row,) = re.findall(rf"^\| `{kind.__struct_config__.tag}` \|.*$", half, re.MULTILINE)
    for field in msgspec.structs.fields(kind):
        assert f"`{field.encode_name}`" in row


def examples() -> list[str]:
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("line", examples())
def test_examples_are_frames(line: str) -> None:
    """Every example is a frame that its side's decoder takes, and shows nothing but the frame's fields."""
    (frame,) = decode(line.encode())
    shown = msgspec.json.decode(line)
    known = {field.encode_name for field in msgspec.structs.fields(frame)} | {"t"}
    assert set(shown) <= known


def decode(line: bytes) -> list[Any]:
    try:
        return list(JSON.decode(line))
    except FrameError as error:
        assert error.code == "unknown_frame"  # noqa: PT017 - then it is the server's
        return list(JSON.decode_server(line))


def test_every_frame_has_an_example() -> None:
    """No kind of frame is without an example."""
    assert {msgspec.json.decode(line)["t"] for line in examples()} == {
        kind.__struct_config__.tag for kind in FRAMES
    }


def test_references_lead_somewhere() -> None:
    """Every reference of the AsyncAPI document leads to something in it."""
    document = schema.asyncapi()
    found = 0

    def walk(value: Any) -> None:
        nonlocal found
        if isinstance(value, dict):
            reference = value.get("$ref")
            if isinstance(reference, str):
                found += 1
                target: Any = document
                for part in reference.removeprefix("#/").split("/"):
                    target = target[part]
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(document)
    assert found > 100


def test_operations_cover_every_frame() -> None:
    """Each frame of a client is received, with its answers, and each frame of a server is sent."""
    operations = schema.asyncapi()["operations"]
    assert set(schema.ANSWERS) == CLIENT_TAGS
    assert {name for name in operations if name.startswith("on_")} == {f"on_{tag}" for tag in CLIENT_TAGS}
    assert len(operations) == len(FRAMES)


def test_yaml_is_written_right() -> None:
    """What YAML could take for something else is quoted."""
    value: dict[str, Any] = {
        "a": ["x", {"b": "yes", "c": []}, "1.0", "a: b", " x"],
        "n": None,
        "e": {},
        "$ref": "#/x",
        "t": True,
    }
    assert list(schema._yaml(value, "")) == [
        "a:",
        "  - x",
        '  - b: "yes"',
        "    c: []",
        '  - "1.0"',
        '  - "a: b"',
        '  - " x"',
        '"n": null',
        "e: {}",
        '$ref: "#/x"',
        "t: true",
    ]
