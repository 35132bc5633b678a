"""Settings of the function: environment variables, written to .chalice/config.json from Terraform's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class SettingsError(Exception):
    """An environment variable is missing."""


def required(environ: Mapping[str, str], name: str) -> str:
    """The variable's value. Raises SettingsError when it is missing or empty."""
    value = environ.get(name)
    if not value:
        raise SettingsError(
            f"{name} is not set: this stage is not configured. Run `comfyeks events configure`, "
            "then chalice with --stage <project, or 'default'>."
        )
    return value


@dataclass(frozen=True, slots=True)
class Settings:
    """SQS queue and dead-letter queue, name of the SSM document, EC2 tag of the nodes that sync."""

    queue_arn: str
    dead_letters_url: str
    document: str
    tag_key: str
    tag_value: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        return cls(
            queue_arn=required(environ, "MODEL_EVENTS_QUEUE_ARN"),
            dead_letters_url=required(environ, "MODEL_EVENTS_DLQ_URL"),
            document=required(environ, "SYNC_DOCUMENT"),
            tag_key=required(environ, "SYNC_TAG_KEY"),
            tag_value=required(environ, "SYNC_TAG_VALUE"),
        )
