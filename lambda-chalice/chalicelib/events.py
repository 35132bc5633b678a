"""The messages that S3 sends to the queue.

The bucket notifies the queue directly, so a message body is S3's own document: `{"Records": [...]}`, or the test event
that S3 sends when the notification is configured. SNS and EventBridge wrap it differently; neither is in between, so
their messages are unreadable here, by intention.

An event is only a hint that a key has changed. Its name, size, version and order are not used, so unknown names, future
fields, deletes (without size) and delete markers need no special case.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote_plus

Change = Literal["created", "removed", "other"]


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """A change of one object. `key` is decoded; `change` is only logged."""

    key: str
    change: Change


@dataclass(frozen=True, slots=True)
class Message:
    """The content of a message body.

    `unreadable` is the reason why it, or a part of it, cannot be read: ASCII, under 300 characters. `events` has the
    readable part.
    """

    events: tuple[ObjectEvent, ...] = ()
    is_test: bool = False
    unreadable: str | None = None


def read_message(body: str) -> Message:
    """The events in one message body. Never raises: `unreadable` has the reason for what cannot be read."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:  # deeply nested brackets exhaust the parser's stack
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
    # Form-decoded exactly once: a space arrives as +, a plus as %2B, and what is then left of %25 is part of the key.
    return ObjectEvent(key=unquote_plus(encoded, errors="strict"), change=_change(record.get("eventName")))


def _change(name: Any) -> Change:
    family = str(name).removeprefix("s3:").partition(":")[0]
    if family == "ObjectCreated":
        return "created"
    return "removed" if family in ("ObjectRemoved", "LifecycleExpiration") else "other"


def _excerpt(text: str, limit: int = 200) -> str:
    """Untrusted text for a log line or an SQS attribute: ASCII, without control characters, of limited length."""
    safe = ascii(text)[1:-1]
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."
