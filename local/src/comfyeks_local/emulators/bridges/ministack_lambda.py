"""MiniStack's Lambda."""

from __future__ import annotations

import time
from typing import Any

from comfyeks_local.emulators.bridges import bridge


@bridge(
    "lambda-sqs-batches",
    "ministack",
    aws="A mapping collects messages until its batch size, its batching window or 6 MB is reached.",
    gap="Takes at most 10 messages and never waits, so a burst causes a hundred times the invocations and commands.",
    needed_by="tests of the limit of commands per burst (⌈events / batch size⌉)",
)
def lambda_sqs_batches() -> None:
    from ministack.services import lambda_svc, sqs

    payload_limit = 6 * 1024 * 1024  # of an invocation; the envelope of a record costs about 1 KB

    def receive_messages_for_esm(queue_url: str, max_number: int) -> list[dict[str, Any]]:
        batch_size = int(max_number or 1)
        with sqs._queues_lock:
            queue = sqs._get_q(queue_url)
            sqs._expire_retained(queue)
            sqs._dlq_sweep(queue)
            waiting = [message for message in queue["messages"] if message["visible_at"] <= time.time()]
            window = max(
                (
                    int(mapping.get("MaximumBatchingWindowInSeconds") or 0)
                    for _, _, mapping in lambda_svc._iter_all_esms()
                    if mapping.get("EventSourceArn") == queue["attributes"]["QueueArn"]
                ),
                default=0,
            )
            size, fitting = 0, 0
            for message in waiting[:batch_size]:
                size += len(message["body"]) + 1024
                fitting += size <= payload_limit
            oldest = min((message["visible_at"] for message in waiting), default=time.time())
            complete = len(waiting) >= batch_size or fitting < len(waiting) or time.time() - oldest >= window
            if not waiting or not complete:
                return []
            visibility = int(queue["attributes"].get("VisibilityTimeout", "30"))
            batch: list[dict[str, Any]] = sqs._collect_msgs(queue, max(fitting, 1), visibility)
            return batch

    sqs._receive_messages_for_esm = receive_messages_for_esm
