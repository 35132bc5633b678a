"""ComfyClient: submit, follow and cancel jobs on one ComfyUI server, upload inputs, save results."""

from __future__ import annotations

import hashlib
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

import requests

from comfyeks import workflow as workflows
from comfyeks.client.errors import (
    ClientError,
    ExecutionError,
    JobInterruptedError,
    JobLostError,
    JobTimeoutError,
    MissingResultError,
    RejectedError,
    StoppedError,
    UnreachableError,
)
from comfyeks.client.events import PING_SECONDS, EventStream
from comfyeks.client.progress import WEBSOCKET_RESULTS, Job, Reporter, Tracker, drain
from comfyeks.client.results import OutputFile, Result, SavedFile, local_path, new_file, parse_outputs
from comfyeks.client.transport import ATTEMPTS, GATEWAY_ERRORS, Transport, json_of, reason, root_cause, was_never_sent
from comfyeks.errors import UserError
from comfyeks.workflow import Workflow

# The server validates before it answers, which takes long for big graphs on slow model folders.
_SUBMIT_SECONDS = 180.0
_CANCEL_SECONDS = 5.0  # to cancel the job when time is up; a busy server answers slowly
_STOP_SECONDS = 0.5  # delay until a `stop` is noticed
_CHUNK = 1 << 20


class ComfyClient:
    """Runs workflows on one ComfyUI server, directly or behind a load balancer with sticky sessions.

    A server keeps its queue, history and sockets in the memory of one process, so every request about a job must reach
    the same one: the load balancer's cookies are kept and sent with each request and with the websocket handshake.

    Example:
        client = ComfyClient("http://127.0.0.1:8848")
        result = client.run(workflow.load(Path("workflows/sdxl-text-to-image.json")), timeout=600)
        for saved in client.save(result, Path("output")):
            print(saved.path)

    Args:
        url: http(s) address, with a path when the server is below one.
        session: has authentication, proxies and TLS settings; the websocket uses its headers too.
        patience: seconds without an answer after which waiting for a running job ends with an error.
        poll_seconds: pause between polls while no events arrive; five times as long while they do.
    """

    def __init__(
        self,
        url: str,
        *,
        session: requests.Session | None = None,
        client_id: str | None = None,
        patience: float = 60.0,
        poll_seconds: float = 2.0,
        lost_post_seconds: float = 20.0,
        ping_seconds: float = PING_SECONDS,
    ) -> None:
        self._transport = Transport(url, session)
        self.url = self._transport.url
        self.client_id = client_id or uuid.uuid4().hex
        self._patience = patience
        self._poll_seconds = poll_seconds
        self._lost_post_seconds = lost_post_seconds
        self._ping_seconds = ping_seconds
        self._has_jobs_api = True

    def time_limit(self, seconds: float | None) -> AbstractContextManager[None]:
        """Limit the time of all requests in the block: JobTimeoutError after `seconds`. None adds no limit."""
        return self._transport.time_limit(seconds)

    # Whole jobs -------------------------------------------------------------------------------------------------------

    def run(
        self,
        workflow: Workflow,
        *,
        timeout: float | None = None,
        on_progress: Reporter | None = None,
        prompt_id: str | None = None,
        extra_data: dict[str, Any] | None = None,
        stop: threading.Event | None = None,
    ) -> Result:
        """Submit a workflow and wait for it, for `timeout` seconds at most (default: what `time_limit` leaves).

        When the wait ends early (time limit, `stop` set by another thread, Ctrl-C, an exception in `on_progress`), the
        job is cancelled first; a note on the exception says whether that worked.

        Raises:
            ClientError, StoppedError: see comfyeks.client.errors.
        """
        prompt_id = prompt_id or str(uuid.uuid4())

        def submit() -> None:
            self.submit(workflow, prompt_id=prompt_id, extra_data=extra_data)

        return self._run(workflow, prompt_id, timeout, on_progress, stop, submit)

    def follow(
        self,
        prompt_id: str,
        workflow: Workflow,
        *,
        timeout: float | None = None,
        on_progress: Reporter | None = None,
        stop: threading.Event | None = None,
    ) -> Result:
        """Wait for a job that was submitted before, by any client, as `run` does.

        Raises JobLostError when the server does not know it.
        """
        return self._run(workflow, prompt_id, timeout, on_progress, stop, lambda: None)

    def _run(
        self,
        workflow: Workflow,
        prompt_id: str,
        timeout: float | None,
        on_progress: Reporter | None,
        stop: threading.Event | None,
        submit: Callable[[], None],
    ) -> Result:
        with self.time_limit(timeout), self._stream() as stream:
            try:
                submit()
                return self._wait(prompt_id, workflow, stream, on_progress, stop)
            except JobTimeoutError as error:
                with self.time_limit(_CANCEL_SECONDS):
                    outcome = self._cancel_and_describe(prompt_id)
                raise JobTimeoutError(f"{error}; {outcome}") from None
            except ClientError:
                raise
            except BaseException as ended:
                try:
                    outcome = self._cancel_and_describe(prompt_id, settle=2.0)
                except KeyboardInterrupt:
                    outcome = f"interrupted again: job {prompt_id} may still run on the server"
                ended.add_note(outcome)
                raise

    def submit(
        self,
        workflow: Workflow,
        *,
        prompt_id: str | None = None,
        extra_data: dict[str, Any] | None = None,
    ) -> str:
        """Queue a workflow exactly once; return its job id.

        The id is generated by this client. When an answer is lost, the server is asked whether it knows the job before
        anything is sent again; after a timeout nothing is sent again, because the server may still be validating. A
        workflow of which only some outputs can run is cancelled and rejected.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        body = {"prompt": workflow, "prompt_id": prompt_id, "client_id": self.client_id, "extra_data": extra_data or {}}
        problem = ""
        for attempt in range(ATTEMPTS):
            try:
                response = self._transport.post_once("/prompt", body, _SUBMIT_SECONDS)
            except requests.exceptions.ReadTimeout as error:
                if self._is_known(prompt_id, self._lost_post_seconds):
                    return prompt_id
                raise UnreachableError(
                    f"{self.url} did not answer within {_SUBMIT_SECONDS:g} s whether it accepted the job; it was not "
                    f"sent again, because the server may still accept it (job {prompt_id})"
                ) from error
            except requests.exceptions.ConnectionError as error:
                problem = f"no connection to {self.url}: {root_cause(error)}"
                if was_never_sent(error):
                    self._transport.pause(0.5 * 2**attempt)
                    continue
            else:
                if response.status_code not in (500, *GATEWAY_ERRORS):
                    return self._accepted(response, workflow, prompt_id)
                problem = f"{self.url} answered {response.status_code}: {reason(response)}"
                if response.status_code == 500:  # an error in the server: it has queued the job already, or never will
                    if self._is_known(prompt_id, 0):
                        return prompt_id
                    raise ClientError(f"the server failed on this workflow: {problem}")
            if self._is_known(prompt_id, self._lost_post_seconds):
                return prompt_id
        raise UnreachableError(f"the workflow could not be submitted: {problem}")

    def save(self, result: Result, out: Path, workflow: Workflow | None = None) -> list[SavedFile]:
        """Save every result below `out`, subfolders kept, nothing overwritten.

        Raises MissingResultError for files that the server no longer has, after all others have been saved.
        """
        saved, missing = [], []
        for file in result.files:
            try:
                with new_file(local_path(out, file.name)) as (stream, publish):
                    size = self._download(file, stream)
                    saved.append(SavedFile(publish(), file.node_id, file.kind, size))
            except MissingResultError as error:
                missing.append(str(error))
        for index, data in enumerate(result.data, 1):
            name = workflows.title(workflow or {}, data.node_id)
            stem = (
                "".join(char if char.isalnum() or char in " -_." else "_" for char in name)[:80].strip(". ") or "node"
            )
            with new_file(out / f"{stem}-{data.kind}-{index:05}{data.suffix}") as (stream, publish):
                stream.write(data.content)
                saved.append(SavedFile(publish(), data.node_id, data.kind, len(data.content)))
        if missing:
            raise MissingResultError("; ".join(missing))
        return saved

    def upload(self, path: Path) -> str:
        """Upload a file to the server's input folder; return the name to use in a workflow.

        It is stored in a folder named after the hash of its content, so that it replaces no other file of its name and
        is stored only once. Raises UserError when it cannot be read or is larger than the server accepts.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"--input {path}: cannot be read: {error.strerror}") from error
        subfolder = f"uploads/{hashlib.sha256(data).hexdigest()[:16]}"
        fields = {"type": "input", "subfolder": subfolder}
        try:
            response = self._transport.send("POST", "/upload/image", files={"image": (path.name, data)}, data=fields)
        except JobTimeoutError as error:
            why = error.problem or f"no time was left for {self.url}"
            raise JobTimeoutError(f"{error}; --input {path} was not uploaded: {why}") from None
        if response.status_code == 413:
            raise UserError(
                f"--input {path}: {len(data)} bytes are more than the server accepts (its --max-upload-size)"
            )
        if response.status_code != 200:
            raise ClientError(f"--input {path}: upload rejected with {response.status_code}: {reason(response)}")
        stored = response.json()
        return f"{stored['subfolder']}/{stored['name']}" if stored.get("subfolder") else str(stored["name"])

    # One job ----------------------------------------------------------------------------------------------------------

    def job(self, prompt_id: str) -> Job | None:
        """The job, or None when the server does not know it.

        Raises UnreachableError when no ComfyUI answers.
        """
        if self._has_jobs_api:
            response = self._transport.send("GET", f"/jobs/{prompt_id}")
            body = json_of(response)
            if response.status_code == 200 and isinstance(body, dict) and "status" in body:
                messages = (body.get("execution_status") or {}).get("messages", [])
                return Job(prompt_id, body["status"], body.get("outputs") or {}, messages, body)
            if response.status_code == 404 and isinstance(body, dict) and "error" in body:
                return None
            if response.status_code != 404:
                raise UnreachableError(f"{self.url} answered {response.status_code} for a job: {reason(response)}")
            self._has_jobs_api = False  # a server from before the jobs API
        return self._job_from_history(prompt_id)

    def cancel(self, prompt_id: str, *, within: float = 15.0, settle: float = 0.0) -> Job | None:
        """Cancel a pending or running job and wait for its end; return it, or None when it left no record.

        A running node is only interrupted at its next step. With `settle`, an unknown job is waited for that many
        seconds, in case its submission is still on its way.

        Raises ClientError when it still runs after `within` seconds.
        """
        started = time.monotonic()
        asked = -1.0
        while True:
            job = self.job(prompt_id)
            now = time.monotonic() - started
            if job is None and now >= settle:
                return None
            if job is not None and not job.live:
                return job
            if now > within:
                raise ClientError(
                    f"the server was asked to cancel job {prompt_id}, which still runs after {within:g} s"
                )
            if job is not None and now - asked >= 1.0:
                self._ask_to_cancel(prompt_id)
                asked = now
            self._transport.pause(0.05 if now < 1 else 0.3)

    def model_files(self, folder: str) -> list[str]:
        """Paths below models/<folder> that the server can load."""
        names = json_of(response := self._transport.send("GET", f"/models/{quote(folder)}"))
        if response.status_code != 200 or not isinstance(names, list):
            raise UnreachableError(
                f"{self.url} does not list its {folder} ({response.status_code}: {reason(response)})"
            )
        return [str(name) for name in names]

    # Waiting ----------------------------------------------------------------------------------------------------------

    def _wait(
        self,
        prompt_id: str,
        workflow: Workflow,
        stream: EventStream,
        report: Reporter | None,
        stop: threading.Event | None,
    ) -> Result:
        tracker = Tracker(prompt_id, workflow)
        next_poll = time.monotonic() + min(1.0, self._poll_seconds)
        answered = time.monotonic()
        unknown = 0
        while True:
            if stop is not None and stop.is_set():
                raise StoppedError("stopped")
            patience = math.inf if stop is None else _STOP_SECONDS
            event = stream.next(min(next_poll - time.monotonic(), self._transport.time_left(), patience))
            if event is not None:
                tracker.apply(event)
                if tracker.changed and report is not None:
                    report(tracker.progress)
                    tracker.changed = False
                if not tracker.finished and event.type != "disconnected" and time.monotonic() < next_poll:
                    continue
            elif time.monotonic() < next_poll:
                continue
            try:
                job = self.job(prompt_id)
            except UnreachableError as error:
                if time.monotonic() - answered > self._patience:
                    raise UnreachableError(
                        f"no answer about job {prompt_id} for {self._patience:g} s: {error}"
                    ) from error
                next_poll = time.monotonic() + min(1.0, self._poll_seconds)
                continue
            answered = time.monotonic()
            if job is None:
                unknown += 1
                if unknown >= 3:
                    raise JobLostError(
                        f"the server no longer knows job {prompt_id}: it was removed from the queue, or the server "
                        "restarted, which empties its queue (it is kept in memory). Run it again."
                    )
                next_poll = time.monotonic() + 0.2
                continue
            unknown = 0
            if not job.live:
                drain(stream, tracker, report)
                return self._finished(job, workflow, tracker)
            if tracker.poll(job) and report is not None:
                report(tracker.progress)
            # The history entry is written shortly after the event that announces the end.
            pause = 0.05 if tracker.finished else self._poll_seconds * (5 if tracker.progress.live else 1)
            next_poll = time.monotonic() + pause

    def _finished(self, job: Job, workflow: Workflow, tracker: Tracker) -> Result:
        if job.status == "completed":
            files, data = parse_outputs(job.outputs)
            cached = tuple((job.message("execution_cached") or {}).get("nodes", []))
            self._check_websocket_images(workflow, tracker, cached)
            return Result(job.id, job.seconds, tuple(files), (*data, *tracker.images), cached, job.raw)
        error = job.message("execution_error") or job.raw.get("execution_error")
        if error:
            where = workflows.name(workflow, str(error.get("node_id")))
            what = f"{error.get('exception_type')}: {str(error.get('exception_message') or '').strip()}"
            raise ExecutionError(f"{where} failed: {what}", error)
        interrupted = job.message("execution_interrupted") or {}
        where = f" at {workflows.name(workflow, str(interrupted['node_id']))}" if interrupted.get("node_id") else ""
        raise JobInterruptedError(f"job {job.id} was interrupted on the server{where}, not by this program")

    @staticmethod
    def _check_websocket_images(workflow: Workflow, tracker: Tracker, cached: Iterable[str]) -> None:
        received = {image.node_id for image in tracker.images}
        for node_id, node in workflow.items():
            if node["class_type"] == WEBSOCKET_RESULTS and node_id not in received:
                why = "it was cached and sends nothing" if node_id in cached else "the websocket was not connected"
                node_name = workflows.name(workflow, node_id)
                raise MissingResultError(
                    f"{node_name} sends its image over the websocket only, and none arrived: {why}. "
                    "Change a seed and run again, or use SaveImage."
                )

    def _cancel_and_describe(self, prompt_id: str, settle: float = 0.0) -> str:
        """Cancel a job; return a clause that says how it ended."""
        try:
            job = self.cancel(prompt_id, settle=settle)
        except JobTimeoutError as error:
            return (
                f"{error.problem or 'the cancellation is not confirmed'}; job {prompt_id} may still run on the server"
            )
        except ClientError as error:
            return str(error)
        if job is not None and job.status == "completed":
            return "it finished before it could be cancelled; its results are on the server"
        return "the job was cancelled on the server"

    def _ask_to_cancel(self, prompt_id: str) -> None:
        if self._has_jobs_api:
            self._transport.send("POST", f"/jobs/{prompt_id}/cancel")
        else:
            self._transport.send("POST", "/queue", json={"delete": [prompt_id]})
            self._transport.send("POST", "/interrupt", json={"prompt_id": prompt_id})

    def _job_from_history(self, prompt_id: str) -> Job | None:
        history = json_of(response := self._transport.send("GET", f"/history/{prompt_id}"))
        if response.status_code != 200 or not isinstance(history, dict):
            raise UnreachableError(f"{self.url} answered {response.status_code} for a job: {reason(response)}")
        if entry := history.get(prompt_id):
            status = entry.get("status") or {}
            messages = status.get("messages", [])
            names = [message[0] for message in messages]
            failed = "cancelled" if "execution_interrupted" in names else "failed"
            return Job(
                prompt_id,
                "completed" if status.get("status_str") == "success" else failed,
                entry.get("outputs") or {},
                messages,
                entry,
            )
        queue = json_of(self._transport.send("GET", "/queue")) or {}
        for key, state in (("queue_running", "in_progress"), ("queue_pending", "pending")):
            if any(item[1] == prompt_id for item in queue.get(key, [])):
                return Job(prompt_id, state, {}, [], {})
        return None

    # Submitting -------------------------------------------------------------------------------------------------------

    def _accepted(self, response: requests.Response, workflow: Workflow, prompt_id: str) -> str:
        body = json_of(response)
        if response.status_code == 200 and isinstance(body, dict) and "prompt_id" in body:
            if body.get("node_errors"):
                self.cancel(prompt_id)
                raise self._rejection("some outputs of this workflow cannot run; cancelled", workflow, body)
            return prompt_id
        if response.status_code == 413:
            raise ClientError("the workflow is larger than the server accepts (its --max-upload-size)")
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            error = body["error"]
            if body.get("node_errors"):
                raise self._rejection("the server refused the workflow", workflow, body)
            details = error.get("details") or ""
            extra = f" ({details})" if details and details != error.get("message") else ""
            raise RejectedError(f"the server refused the workflow: {error.get('message')}{extra}")
        raise ClientError(
            f"{self.url} did not accept the workflow as ComfyUI does ({response.status_code}: {reason(response)})"
        )

    @staticmethod
    def _rejection(summary: str, workflow: Workflow, body: dict[str, Any]) -> RejectedError:
        lines = workflows.explain_node_errors(workflow, body["node_errors"])
        return RejectedError("\n  ".join([f"{summary}:", *lines]), body["node_errors"])

    def _is_known(self, prompt_id: str, seconds: float) -> bool:
        """Whether the server has the job; asks repeatedly for up to `seconds` until it does."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.job(prompt_id) is not None:
                    return True
            except UnreachableError:
                pass
            if time.monotonic() >= deadline:
                return False
            self._transport.pause(0.3)

    @property
    def binding(self) -> dict[str, str]:
        """The stickiness cookies that bind this client to one server behind a load balancer. Set them to reach it."""
        cookies = self._transport.session.cookies.items()
        return {name: value or "" for name, value in cookies if name.startswith("AWSALB")}

    @binding.setter
    def binding(self, cookies: dict[str, str]) -> None:
        self._transport.session.cookies.update(cookies)

    def connect(self) -> None:
        """Send a first request, so that a load balancer binds this client to a server."""
        try:
            response = self._transport.send("GET", "/prompt")
        except JobTimeoutError as error:
            raise JobTimeoutError(f"{error}; {error.problem or f'no answer from {self.url}'}") from None
        if response.status_code != 200 or not isinstance(json_of(response), dict):
            raise UnreachableError(
                f"{self.url} does not answer like ComfyUI ({response.status_code}: {reason(response)})"
            )

    # Results ----------------------------------------------------------------------------------------------------------

    def _download(self, file: OutputFile, stream: IO[bytes]) -> int:
        """Copy a result into `stream`; return its size in bytes. Starts again when the connection breaks."""
        query = urlencode({"filename": file.filename, "subfolder": file.subfolder, "type": file.type}, quote_via=quote)
        problem = ""
        for _ in range(ATTEMPTS):
            stream.seek(0)
            stream.truncate()
            with self._transport.send("GET", f"/view?{query}", stream=True) as response:
                if response.status_code != 200:
                    raise MissingResultError(
                        f"the job succeeded, but its result {file.name} ({file.type}) is not on the server "
                        f"({response.status_code}): deleted or moved since then. Change a seed to create it again."
                    )
                try:
                    for chunk in response.iter_content(_CHUNK):
                        stream.write(chunk)
                    return stream.tell()
                except requests.exceptions.RequestException as error:
                    problem = root_cause(error)
        raise ClientError(f"the result {file.name} could not be fetched: {problem}")

    def _stream(self) -> EventStream:
        self.connect()
        return EventStream(lambda: self._transport.connect_websocket(self.client_id), self._ping_seconds)
