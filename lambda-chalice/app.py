"""Triggers of the Chalice app `comfyui-models`; the logic is in chalicelib."""

import os

from chalice.app import Chalice, SQSEvent

from chalicelib import aws
from chalicelib.handler import handle
from chalicelib.settings import Settings, required

app = Chalice(app_name="comfyui-models", configure_logs=False)


# The only setting that packaging needs: Chalice subscribes the function to this queue.
# Each S3 event is one message. The window collects a burst into few batches, and a batch becomes at most one command;
# two concurrent batches are enough, and the smallest number that SQS accepts.
@app.on_sqs_message(
    queue_arn=required(os.environ, "MODEL_EVENTS_QUEUE_ARN"),
    batch_size=1000,
    maximum_batching_window_in_seconds=5,
    maximum_concurrency=2,
)
def sync(event: SQSEvent) -> None:
    """Requests a sync of the GPU nodes when a model has changed; an exception returns the whole batch to the queue."""
    handle(
        event.to_dict()["Records"],
        settings=Settings.from_environment(os.environ),
        ssm=aws.ssm(),
        sqs=aws.sqs(),
        request_id=getattr(event.context, "aws_request_id", ""),  # typed as a dict, but it is Lambda's context object
    )
