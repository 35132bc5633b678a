"""What S3 writes into the queue.

The bucket notifies the queue directly, so a message body is S3's own document: `{"Records": [...]}`, or the test event
sent when the notification is set up. SNS and EventBridge wrap it differently; neither is in the path, so their messages
are unreadable here on purpose.

An event is only a hint that a key has changed. Its name, size, version or order decide nothing, which makes unknown
names, future fields, deletes (no size) and delete markers ordinary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote_plus

Change = Literal["created", "removed", "other"]


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """A change of one object. `key` is decoded, `change` is for the log only."""

    key: str
    change: Change


@dataclass(frozen=True, slots=True)
class Message:
    """What a message body says.

    `unreadable` is the reason why (a part of) it cannot be read: ASCII, under 300 characters. What can be read is in
    `events` all the same.
    """

    events: tuple[ObjectEvent, ...] = ()
    is_test: bool = False
    unreadable: str | None = None


def read_message(body: str) -> Message:
    """The events in one message body. Never raises: whatever cannot be read is named in `unreadable`."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:  # a deep nest of brackets exhausts the parser's stack
        return Message(unreadable=f"not JSON: {_excerpt(str(error))}")
    if not isinstance(document, dict):
        return Message(unreadable=f"not an S3 event: {type(document).__name__} instead of an object")
    if document.get("Event") == "s3:TestEvent":
        return Message(is_test=True)
    records = document.get("Records")
    if not isinstance(records, list):
        return Message(unreadable=f"not an S3 event: no list 'Records' among {_excerpt(', '.join(document))}")

    events: list[ObjectEvent] = []
    unreadable: str | None = None
    for number, record in enumerate(records):
        try:
            events.append(_read_record(record))
        except (KeyError, TypeError, ValueError) as error:
            unreadable = unreadable or f"record {number} of {len(records)}: {_excerpt(str(error))}"
    return Message(events=tuple(events), unreadable=unreadable)


def _read_record(record: Any) -> ObjectEvent:
    try:
        encoded = record["s3"]["object"]["key"]
    except (KeyError, TypeError):
        raise ValueError("no s3.object.key") from None
    if not isinstance(encoded, str):
        raise ValueError(f"s3.object.key is {type(encoded).__name__}, not text")
    # Form encoding, exactly once: a space arrives as +, a plus as %2B, and a %25 left over is part of the key.
    return ObjectEvent(key=unquote_plus(encoded, errors="strict"), change=_change(record.get("eventName")))


def _change(name: Any) -> Change:
    family = str(name).removeprefix("s3:").partition(":")[0]
    if family == "ObjectCreated":
        return "created"
    return "removed" if family in ("ObjectRemoved", "LifecycleExpiration") else "other"


def _excerpt(text: str, limit: int = 200) -> str:
    """Foreign text for a log line or an SQS attribute: ASCII, no control characters, bounded."""
    safe = ascii(text)[1:-1]
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."
