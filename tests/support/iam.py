"""What IAM would decide, evaluated by @cloud-copilot/iam-simulate (docs/decisions/0008-policy-tools.md).

It honours every condition operator, resource and trust policies, and knows from AWS's service authorization reference
which actions exist, which resources an action can be limited to, and which condition keys AWS hands to it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.policy_tools import policy_tools

Context = Mapping[str, str | list[str]]


class IamError(AssertionError):
    """IAM could not decide this: an unknown action, an unsupported resource, or a condition key that is never set."""


class Iam:
    """One evaluator process for many questions."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.evaluations = 0

    def resources_of(self, action: str) -> list[str]:
        """The resource types that an action can be limited to; empty if it supports only `*`."""
        resources: list[str] = self._ask({"action": action})["resources"]
        return resources

    def allows(
        self,
        principal: str,
        action: str,
        resource: str,
        context: Context | None = None,
        *,
        account: str,
        identity: Sequence[dict[str, Any]] = (),
        resource_policy: dict[str, Any] | None = None,
    ) -> bool:
        """Whether `principal` (an ARN or a service) may do `action` to `resource` of `account`.

        `identity` are the policies of the principal, `resource_policy` is that of the queue, bucket, key or role.

        Raises:
            IamError: a policy is malformed, AWS has no such action, the action takes no such resource, or AWS hands
                one of the keys in `context` to no such request: a condition on it would never hold.
        """
        simulation = {
            "request": {
                "principal": principal,
                "action": action,
                "resource": {"resource": resource, "accountId": account},
                "contextVariables": context or {},
            },
            "identityPolicies": [{"name": f"policy-{i}", "policy": policy} for i, policy in enumerate(identity)],
            "serviceControlPolicies": [],
            "resourceControlPolicies": [],
            "resourcePolicy": resource_policy,
        }
        self.evaluations += 1
        answer = self._ask({"simulate": simulation})
        if answer["resultType"] == "error":
            raise IamError(f"{action} on {resource}: {json.dumps(answer['errors'])}")
        results = answer.get("results") or [answer.get("result")]
        if results == [None]:
            raise IamError(f"{action} on {resource}: ask about one resource, not about a pattern")
        [result] = results
        if result["ignoredContextKeys"]:
            raise IamError(f"{action} on {resource} never sees {', '.join(result['ignoredContextKeys'])}")
        return bool(answer["overallResult"] == "Allowed")

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise IamError(f"the evaluator ended at {json.dumps(question)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise IamError(answer["error"])
        return answer


@contextmanager
def evaluator() -> Iterator[Iam]:
    home = policy_tools()
    argv = [str(home / "node"), str(home / "evaluate.mjs")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Iam(process)
        assert process.stdin is not None
        process.stdin.close()


@dataclass(frozen=True)
class Role:
    """A role of the plan, with the policies that the plan gives it."""

    iam: Iam
    arn: str
    trust: dict[str, Any]
    policies: tuple[dict[str, Any], ...]

    @property
    def account(self) -> str:
        return self.arn.split(":")[4]

    def may(
        self,
        action: str,
        resource: str = "*",
        context: Context | None = None,
        resource_policy: dict[str, Any] | None = None,
    ) -> bool:
        return self.iam.allows(
            self.arn,
            action,
            resource,
            context,
            account=self.account,
            identity=self.policies,
            resource_policy=resource_policy,
        )

    def can_be_taken_by(self, service: str, context: Context | None = None, action: str = "sts:AssumeRole") -> bool:
        return self.iam.allows(service, action, self.arn, context, account=self.account, resource_policy=self.trust)
