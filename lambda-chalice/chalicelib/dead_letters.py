"""Moves unreadable messages to the dead-letter queue, with the reason.

Otherwise such a message would be lost, or fail its whole batch until SQS moves all of it without a reason
(`chalice deploy` cannot enable partial batch responses).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chalicelib import log

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageAttributeValueTypeDef

MESSAGES_PER_CALL = 10  # limit of SendMessageBatch
BYTES_PER_CALL = 192 * 1024  # below the lowest limit that SQS has had per call (256 KiB, including attributes)
LINES_PER_BATCH = 20


class DeadLettersError(Exception):
    """SQS did not accept some of the messages."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    message_id: str
    body: str
    reason: str


def move(letters: list[DeadLetter], *, sqs: SQSClient, dead_letters_url: str, queue_arn: str, request_id: str) -> None:
    """Sends each message to the dead-letter queue; the caller then acknowledges it by returning normally.

    The ARN of the source queue is an attribute, because SQS knows it only for messages that SQS itself has moved.
    At most LINES_PER_BATCH messages are logged; all of them have their reason in the queue.
    Raises DeadLettersError or botocore's errors; after the retry a message may be in the queue twice.
    """
    refused: list[str] = []
    moved = 0
    for call in _calls(letters):
        response = sqs.send_message_batch(
            QueueUrl=dead_letters_url,
            Entries=[
                {
                    "Id": str(number),
                    "MessageBody": letter.body,
                    "MessageAttributes": {
                        "Reason": _text(letter.reason),
                        "SourceMessageId": _text(letter.message_id),
                        "SourceQueueArn": _text(queue_arn),
                    },
                }
                for number, letter in enumerate(call)
            ],
        )
        failures = {int(failure["Id"]): failure["Code"] for failure in response.get("Failed", [])}
        for number, letter in enumerate(call):
            if number in failures:
                refused.append(f"{letter.message_id} ({failures[number]})")
                continue
            moved += 1
            if moved <= LINES_PER_BATCH:
                log.write(
                    "WARNING",
                    "moved_to_dead_letters",
                    request_id=request_id,
                    message_id=letter.message_id,
                    reason=letter.reason,
                )
    if refused:
        raise DeadLettersError(f"{dead_letters_url} did not accept {len(refused)} messages: {', '.join(refused[:5])}")


def _text(value: str) -> MessageAttributeValueTypeDef:
    return {"DataType": "String", "StringValue": value}


def _calls(letters: Iterable[DeadLetter]) -> Iterator[list[DeadLetter]]:
    call: list[DeadLetter] = []
    size = 0
    for letter in letters:
        length = len(letter.body.encode(errors="replace"))
        if call and (len(call) == MESSAGES_PER_CALL or size + length > BYTES_PER_CALL):
            yield call
            call, size = [], 0
        call.append(letter)
        size += length
    if call:
        yield call
