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
DELIVERY_TIMEOUT_SECONDS = 600  # a node that is away longer than this syncs by itself when it is back


def handle(
    records: Sequence[Mapping[str, Any]], *, settings: Settings, ssm: SSMClient, sqs: SQSClient, request_id: str
) -> None:
    """Handle one batch: SQS records as Lambda delivers them.

    One SendCommand when any message is about a model, none otherwise. No key is ever sent: the command says "sync", and
    each node compares itself with the bucket. Unreadable messages go to the dead letters after the command, so that a
    failing SSM does not copy them there once per retry.

    Log: one line for the batch (its decision, counts, a few keys) and one for each dead letter up to a limit, however
    large the batch is.

    Raises whatever SSM or SQS raise after their retries, so that the whole batch returns to the queue; doing it again
    is harmless.
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
    """Tell every node with our tag to sync; the command id. A tag needs no list of nodes and has no limit of 50."""
    response = ssm.send_command(
        DocumentName=settings.document,
        Targets=[{"Key": f"tag:{settings.tag_key}", "Values": [settings.tag_value]}],
        Parameters={"action": ["sync"]},
        MaxConcurrency="100%",
        MaxErrors="100%",  # one node that fails must not keep the others from hearing of it
        TimeoutSeconds=DELIVERY_TIMEOUT_SECONDS,
    )
    return response["Command"]["CommandId"]
