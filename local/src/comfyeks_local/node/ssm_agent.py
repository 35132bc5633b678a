"""A stand-in for the SSM agent of a local node: fetches commands, runs the document's own script, reports the result.

The real agent's message channel is not a public AWS API, and no emulator has it; ours is `/_local/ssm/` of the moto
process (see `comfyeks_local.emulators.moto_server`). The rest is as on AWS: the document is fetched with GetDocument,
parameters with interpolationType ENV_VAR are passed as SSM_<name>, at most five commands run at once, and output is cut
where SSM cuts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
import yaml

WORKERS = 5  # the agent's CommandWorkersLimit
POLL_SECONDS = 20
RECONNECT_SECONDS = 1.0
DEFAULT_TIMEOUT = 3600.0  # seconds a step may take if the document sets no timeout
STDOUT_LIMIT = 24_000  # characters that GetCommandInvocation keeps
STDERR_LIMIT = 8_000


@dataclass(frozen=True)
class Result:
    """The result of a command. `status` is Success, Failed or TimedOut."""

    status: str
    response_code: int
    stdout: str
    stderr: str


class Agent:
    """Runs commands for one instance until it is cancelled.

    `get_document(name)` returns a document's content, JSON or YAML; `log` takes one line.
    """

    def __init__(
        self,
        endpoint: str,
        instance_id: str,
        environment: Mapping[str, str],
        get_document: Callable[[str], str],
        log: Callable[[str], None],
    ) -> None:
        self._channel = f"{endpoint}/_local/ssm"
        self._instance_id = instance_id
        self._environment = environment
        self._get_document = get_document
        self._log = log

    async def run(self) -> None:
        workers = asyncio.Semaphore(WORKERS)
        timeout = aiohttp.ClientTimeout(total=POLL_SECONDS + 10)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            while True:
                await workers.acquire()
                command = await self._next(session)
                handled = tasks.create_task(self._handle(session, command))
                handled.add_done_callback(lambda _: workers.release())

    async def _next(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        query = {"instance": self._instance_id, "wait": str(POLL_SECONDS)}
        while True:
            try:
                async with session.get(f"{self._channel}/next", params=query) as response:
                    if response.status == HTTPStatus.OK:
                        command: dict[str, Any] = await response.json()
                        return command
                    response.raise_for_status()
            except (aiohttp.ClientError, TimeoutError) as error:
                self._log(f"ssm agent: {error!r}; trying again")
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _handle(self, session: aiohttp.ClientSession, command: dict[str, Any]) -> None:
        try:
            content = await asyncio.to_thread(self._get_document, command["document"])
            result = await run_document(yaml.safe_load(content), command["parameters"], self._environment)
        except Exception as error:
            result = Result("Failed", 1, "", f"{type(error).__name__}: {error}")
        self._log(f"ssm agent: {command['document']} {json.dumps(command['parameters'])}: {result.status}")
        body = {
            "command_id": command["command_id"],
            "instance_id": self._instance_id,
            "status": result.status,
            "response_code": result.response_code,
            "stdout": result.stdout[:STDOUT_LIMIT],
            "stderr": result.stderr[:STDERR_LIMIT],
        }
        try:
            async with session.post(f"{self._channel}/result", json=body) as response:
                response.raise_for_status()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._log(f"ssm agent: result of {command['command_id']} could not be reported: {error!r}")


async def run_document(
    document: Mapping[str, Any], given: Mapping[str, list[str]], environment: Mapping[str, str]
) -> Result:
    """Run the shell steps of a Command document (schema 2.2) one after the other, up to the first that fails.

    Raises ValueError for a parameter that the document does not allow, or that it would insert into the script as text.
    """
    declared: Mapping[str, Any] = document.get("parameters", {})
    if unknown := given.keys() - declared.keys():
        raise ValueError(f"the document has no parameter {', '.join(sorted(unknown))}")
    variables = {}
    for name, parameter in declared.items():
        value = given[name][0] if name in given else parameter["default"]
        if "allowedValues" in parameter and value not in parameter["allowedValues"]:
            raise ValueError(f"parameter {name}={value!r}; allowed: {', '.join(parameter['allowedValues'])}")
        if parameter.get("interpolationType") != "ENV_VAR":
            raise ValueError(f"parameter {name} is not of interpolationType ENV_VAR: it would become script text")
        variables[f"SSM_{name}"] = value
    stdout, stderr = "", ""
    for step in document["mainSteps"]:
        if step["action"] != "aws:runShellScript":
            raise ValueError(f"step {step['name']}: action {step['action']} is not supported on this node")
        script = "\n".join(step["inputs"]["runCommand"])
        timeout = float(step["inputs"].get("timeoutSeconds", DEFAULT_TIMEOUT))
        result = await _run_script(script, {**environment, **variables}, timeout)
        stdout, stderr = stdout + result.stdout, stderr + result.stderr
        if result.status != "Success":
            return Result(result.status, result.response_code, stdout, stderr)
    return Result("Success", 0, stdout, stderr)


async def _run_script(script: str, environment: Mapping[str, str], timeout: float) -> Result:
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        script,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        return Result("TimedOut", 137, "", f"did not end within {timeout:.0f} s")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    code = process.returncode or 0
    status = "Success" if code == 0 else "Failed"
    return Result(status, code, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
