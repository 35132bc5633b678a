"""Findings of checks: what was found, how severe it is, and how to fix it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from comfyeks.errors import ComfyeksError

OK, WARNING, ERROR = "ok", "warning", "error"
SEVERITIES = (OK, WARNING, ERROR)


@dataclass(frozen=True)
class Finding:
    """`message`: one sentence with the value that was found; `fix`: what to do, a command where there is one."""

    check: str
    severity: str
    message: str
    fix: str = ""


Check = tuple[str, Callable[[], Iterator[Finding]]]  # its name, and how to ask


@dataclass(frozen=True)
class Reason:
    """Why something does not run. `certain` is False when waiting may be enough."""

    message: str
    fix: str
    certain: bool = True


def short(text: str) -> str:
    """A message of another program, shortened to fit a table."""
    return text if len(text) <= 200 else f"{text[:197]}..."


def examine(check: str, ask: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of a check. A check that fails is a finding too, so that the others still run."""
    try:
        return list(ask())
    except ComfyeksError as error:
        return [Finding(check, ERROR, str(error))]
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        denied = "AccessDenied" in code or "Unauthorized" in code
        fix = f"allow the caller {error.operation_name}" if denied else ""
        return [Finding(check, WARNING, f"unknown: {error.operation_name} answered {code}: {message}", fix)]
    except BotoCoreError as error:
        return [Finding(check, WARNING, f"unknown: {error}")]


def examine_all(checks: Sequence[Check]) -> list[Finding]:
    """The findings of all checks, asked at once: most of the time is spent on waiting for answers."""
    with ThreadPoolExecutor() as pool:
        answers = pool.map(lambda check: examine(*check), checks)
        return [finding for answer in answers for finding in answer]


def worst(findings: list[Finding]) -> str:
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default=OK)
