"""The test vectors of the Session protocol as an author of another client meets them: JSON, and the generated messages."""

import base64
import json

import pytest
from google.protobuf import json_format

from conftest import SOURCE_DIR
from sockbroker.v1 import error_pb2, session_pb2  # noqa: F401  (error_pb2: the details of a Failed)

VECTORS = sorted((SOURCE_DIR / "proto" / "sockbroker" / "v1" / "vectors").glob("*.json"))
# The kinds of steps, each with what may stand beside it: docs/session.md, "Test vectors".
STEPS = {
    "client": {"session", "when"},
    "broker": {"session", "when"},
    "application": {"session"},
    "told": set(),
    "host": {"session", "channel", "socket", "connection", "status", "closed", "window", "seconds"},
    "peer": {"socket", "data", "flushed", "status", "closed"},
    "asked": {"socket"},
    "link": {"session"},
    "time_ms": set(),
    "refused_by": {"code"},
}


def frames(story, kind, message):
    """Every frame of that kind of step, parsed."""
    for step in story["steps"]:
        for frame in step.get(kind, []):
            yield json_format.ParseDict(frame, message())


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_a_story_is_what_its_description_says(path):
    story = json.loads(path.read_text(encoding="utf-8"))
    assert story["story"] and set(story) <= {"story", "about", "for", "pings", "holders", "client", "broker", "steps"}
    assert all(len(base64.b64decode(holder, validate=True)) == 16 for holder in story["holders"].values())
    for step in story["steps"]:
        kinds = set(step) & set(STEPS)
        assert len(kinds) == 1, step
        kind = kinds.pop()
        assert set(step) <= {kind, "note"} | STEPS[kind], step
        assert step.get("when", "sent") in ("sent", "received", "lost")
    list(frames(story, "client", session_pb2.ClientFrame))
    list(frames(story, "broker", session_pb2.BrokerFrame))


def test_every_kind_of_frame_occurs_in_a_story():
    stories = [json.loads(path.read_text(encoding="utf-8")) for path in VECTORS]
    for kind, message in (("client", session_pb2.ClientFrame), ("broker", session_pb2.BrokerFrame)):
        seen = {frame.WhichOneof("frame") for story in stories for frame in frames(story, kind, message)}
        assert {field.name for field in message.DESCRIPTOR.oneofs_by_name["frame"].fields} <= seen
