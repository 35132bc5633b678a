import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.events import ObjectEvent, read_message
from chalicelib.model_keys import why_ignored
from tests.lambda_chalice.fakes import TEST_EVENT, s3_document, s3_record
from tests.support.model_keys import MODEL_KEYS, KeyCase

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize("case", MODEL_KEYS, ids=lambda case: repr(case.key))
def test_a_key_is_a_model_exactly_when_the_shared_table_says_so(case: KeyCase) -> None:
    assert (why_ignored(case.key) is None) is case.is_model, case.why


@given(st.text())
def test_any_key_survives_the_encoding_of_a_notification(key: str) -> None:
    assert read_message(s3_document(s3_record(key))).events == (ObjectEvent(key, "created"),)


@pytest.mark.parametrize("encode", [quote, quote_plus], ids=["slash kept", "slash encoded"])
def test_the_slash_may_be_encoded_or_not(encode: Any) -> None:
    record = s3_record("x")
    record["s3"]["object"]["key"] = encode("loras/a b.safetensors").replace("%20", "+")
    assert read_message(s3_document(record)).events[0].key == "loras/a b.safetensors"


@pytest.mark.parametrize(
    ("encoded", "key"),
    [("loras/a+b", "loras/a b"), ("loras/a%2Bb", "loras/a+b"), ("loras/100%2525", "loras/100%25")],
)
def test_a_key_is_decoded_exactly_once(encoded: str, key: str) -> None:
    record = s3_record("x")
    record["s3"]["object"]["key"] = encoded
    assert read_message(s3_document(record)).events[0].key == key


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ObjectCreated:Put", "created"),
        ("ObjectCreated:CompleteMultipartUpload", "created"),
        ("s3:ObjectCreated:Copy", "created"),
        ("ObjectRemoved:Delete", "removed"),
        ("ObjectRemoved:DeleteMarkerCreated", "removed"),
        ("LifecycleExpiration:DeleteMarkerCreated", "removed"),
        ("ObjectTeleported:Sideways", "other"),
        (None, "other"),
    ],
)
def test_every_event_name_is_a_hint_known_or_not(name: Any, change: str) -> None:
    record = s3_record("loras/a", str(name)) | {"eventName": name}
    message = read_message(s3_document(record))
    assert message.events == (ObjectEvent("loras/a", change),)  # type: ignore[arg-type]
    assert message.unreadable is None


def test_a_delete_has_no_size_and_needs_none() -> None:
    record = s3_record("loras/a", "ObjectRemoved:Delete")
    assert "size" not in record["s3"]["object"]
    assert read_message(s3_document(record)).events[0].key == "loras/a"


def test_a_message_may_hold_several_records() -> None:
    keys = [f"loras/{number}" for number in range(5)]
    message = read_message(s3_document(*map(s3_record, keys)))
    assert [event.key for event in message.events] == keys


def test_unknown_fields_are_ignored() -> None:
    record = s3_record("loras/a", size="a lot", annotations=[{"x": 1}]) | {
        "eventVersion": "9.0",
        "glacierEventData": {},
    }
    assert read_message(json.dumps({"Records": [record], "NextGeneration": True})).events[0].key == "loras/a"


def test_the_test_event_of_s3_is_not_an_error() -> None:
    message = read_message(TEST_EVENT)
    assert message.is_test
    assert message.unreadable is None
    assert not message.events


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not JSON"),
        ("hello", "not JSON"),
        ('{"Records": [', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not an S3 event: list"),
        ("null", "not an S3 event: NoneType"),
        ("{}", "no list 'Records'"),
        ('{"Records": {"s3": 1}}', "no list 'Records'"),
        ('{"Type": "Notification", "Message": "{}"}', "no list 'Records' among Type, Message"),
        ('{"detail-type": "Object Created", "detail": {}}', "no list 'Records' among detail-type, detail"),
        ('{"Records": [{}]}', "record 0 of 1: no s3.object.key"),
        ('{"Records": [7]}', "record 0 of 1: no s3.object.key"),
        ('{"Records": [{"s3": {"object": {"key": 7}}}]}', "record 0 of 1: s3.object.key is int"),
        ('{"Records": [{"s3": {"object": {"key": "loras/%FF"}}}]}', "record 0 of 1: 'utf-8' codec"),
    ],
)
def test_an_unreadable_message_says_why(body: str, reason: str) -> None:
    message = read_message(body)
    assert message.unreadable is not None
    assert reason.replace("'", "") in message.unreadable.replace("\\'", "").replace("'", "")
    assert not message.events


def test_a_bad_record_does_not_hide_the_good_ones_beside_it() -> None:
    message = read_message(json.dumps({"Records": [s3_record("loras/a"), {"s3": {}}, s3_record("loras/b")]}))
    assert [event.key for event in message.events] == ["loras/a", "loras/b"]
    assert message.unreadable == "record 1 of 3: no s3.object.key"


@given(st.text() | JSON.map(json.dumps) | st.lists(JSON).map(lambda records: json.dumps({"Records": records})))
def test_no_body_ever_raises_and_every_reason_is_short_printable_ascii(body: str) -> None:
    reason = read_message(body).unreadable
    assert reason is None or (reason.isascii() and reason.isprintable() and 0 < len(reason) < 300)
