"""A batch of queue messages becomes at most one command to all nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib import dead_letters, log
from chalicelib.dead_letters import DeadLetter
from chalicelib.events import read_message
from chalicelib.model_keys import why_ignored
from chalicelib.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient

KEYS_IN_LOG = 10
DELIVERY_TIMEOUT_SECONDS = 600  # a node that is offline for longer syncs by its own timer


def handle(
    records: Sequence[Mapping[str, Any]], *, settings: Settings, ssm: SSMClient, sqs: SQSClient, request_id: str
) -> None:
    """Handles one batch: SQS records as Lambda delivers them.

    One SendCommand if any message is about a model, none otherwise. No key is ever sent: the command says "sync", and
    each node compares its disk with the bucket. Unreadable messages are moved to the dead-letter queue after the
    command, so that a failing SSM does not move them once per retry.

    Logs one line for the batch (decision, counts, a few keys) and, up to a limit, one for each dead letter.

    Raises the errors of SSM and SQS after their retries, so that the whole batch returns to the queue; handling it
    again is harmless.
    """
    models: list[str] = []
    changes: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    ignored_keys: list[str] = []
    unreadable: list[DeadLetter] = []

    for record in records:
        message = read_message(record["body"])
        if message.is_test:
            ignored["test event"] += 1
        if message.unreadable is not None:
            unreadable.append(DeadLetter(record["messageId"], record["body"], message.unreadable))
        for event in message.events:
            reason = why_ignored(event.key)
            if reason is None:
                models.append(event.key)
                changes[event.change] += 1
            else:
                ignored[reason] += 1
                ignored_keys.append(event.key)

    facts: dict[str, Any] = {
        "request_id": request_id,
        "messages": len(records),
        "models": len(models),
        "changes": dict(changes),
        "keys": models[:KEYS_IN_LOG],
        "ignored": dict(ignored),
        "ignored_keys": ignored_keys[:KEYS_IN_LOG],
        "unreadable": len(unreadable),
    }
    if models:
        try:
            command_id = _send_sync(ssm, settings)
        except (BotoCoreError, ClientError) as error:
            log.write("ERROR", "sync_failed", error=str(error), **facts)
            raise
        log.write("INFO", "sync_requested", command_id=command_id, **facts)
    else:
        log.write("INFO", "nothing_to_sync", **facts)

    try:
        dead_letters.move(
            unreadable,
            sqs=sqs,
            dead_letters_url=settings.dead_letters_url,
            queue_arn=settings.queue_arn,
            request_id=request_id,
        )
    except (BotoCoreError, ClientError, dead_letters.DeadLettersError) as error:
        log.write("ERROR", "dead_letters_failed", request_id=request_id, error=str(error))
        raise


def _send_sync(ssm: SSMClient, settings: Settings) -> str:
    """Sends the sync command to all nodes with our tag; returns its id. By tag: a list is limited to 50 ids."""
    response = ssm.send_command(
        DocumentName=settings.document,
        Targets=[{"Key": f"tag:{settings.tag_key}", "Values": [settings.tag_value]}],
        Parameters={"action": ["sync"]},
        MaxConcurrency="100%",
        MaxErrors="100%",  # a failing node must not keep the command from the others
        TimeoutSeconds=DELIVERY_TIMEOUT_SECONDS,
    )
    return response["Command"]["CommandId"]
