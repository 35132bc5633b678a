"""A job on the server: its record there, and its progress for people."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from comfyeks import workflow as workflows
from comfyeks.client.events import Event, EventStream
from comfyeks.client.results import OutputData
from comfyeks.workflow import Workflow

WEBSOCKET_RESULTS = "SaveImageWebsocket"  # the class whose images come only over the websocket
# To wait for late events once a poll says the job is done: when events arrived before or are results; otherwise.
_LAST_EVENTS_SECONDS, _FIRST_EVENTS_SECONDS = 2.0, 0.3
_LIVE = ("pending", "in_progress")


@dataclass(frozen=True)
class Job:
    """A job as the server sees it. `status`: pending, in_progress, completed, failed or cancelled."""

    id: str
    status: str
    outputs: dict[str, Any]
    messages: list[Any]
    raw: dict[str, Any]

    @property
    def live(self) -> bool:
        return self.status in _LIVE

    def message(self, name: str) -> dict[str, Any] | None:
        """The data of the last history message of that name."""
        found = [entry[1] for entry in self.messages if len(entry) == 2 and entry[0] == name]
        return found[-1] if found else None

    @property
    def seconds(self) -> float:
        times = [entry[1].get("timestamp", 0) for entry in self.messages if len(entry) == 2]
        return (max(times) - min(times)) / 1000 if times else 0.0


@dataclass(frozen=True)
class Progress:
    """Where a job stands. `value` of `maximum` steps of the node that runs; `done` of `total` nodes."""

    state: str = "queued"  # queued | running
    queue: int | None = None  # jobs on the server, this one included, in the last event
    node_id: str | None = None
    node: str = ""
    value: float = 0
    maximum: float = 0
    done: int = 0
    total: int = 0
    live: bool = False  # True while events arrive, False when only polling works


Reporter = Callable[[Progress], None]


def drain(stream: EventStream, tracker: Tracker, report: Reporter | None) -> None:
    """Read the remaining events of a job that ended, according to a poll: images among them are results."""
    expected = tracker.progress.live or any(
        node["class_type"] == WEBSOCKET_RESULTS for node in tracker.workflow.values()
    )
    deadline = time.monotonic() + (_LAST_EVENTS_SECONDS if expected else _FIRST_EVENTS_SECONDS)
    while tracker.connected and not tracker.finished and (left := deadline - time.monotonic()) > 0:
        event = stream.next(left)
        if event is not None:
            tracker.apply(event)
            if tracker.changed and report is not None:
                report(tracker.progress)
                tracker.changed = False


class Tracker:
    """Turns events into progress. `finished` once an event announced the end; the outcome is read from the job."""

    def __init__(self, prompt_id: str, workflow: Workflow) -> None:
        self.prompt_id = prompt_id
        self.workflow = workflow
        self.progress = Progress(total=len(workflow))
        self.changed = False
        self.finished = False
        self.connected = False
        self.images: list[OutputData] = []
        self._done: set[str] = set()

    def apply(self, event: Event) -> None:
        data = event.data
        if event.type in ("connected", "disconnected"):
            self.connected = event.type == "connected"
            if not self.connected:
                self._update(live=False)
        elif event.type == "status":
            exec_info = (data.get("status") or {}).get("exec_info") or {}
            if self.progress.state == "queued":
                self._update(queue=exec_info.get("queue_remaining"))
        elif event.type == "image":
            self._image(event)
        elif data.get("prompt_id") == self.prompt_id:
            self._own_event(event.type, data)

    def poll(self, job: Job) -> bool:
        """Update the progress from a polled job; return whether it changed."""
        if job.status == "in_progress" and self.progress.state == "queued":
            self.progress = replace(self.progress, state="running")
            return True
        return False

    def _own_event(self, kind: str, data: dict[str, Any]) -> None:
        match kind:
            case "execution_start":
                self._update(state="running", live=True)
            case "execution_cached":
                self._done.update(data.get("nodes", []))
                self._update(state="running", live=True, done=len(self._done))
            case "executing" if data.get("node") is None:
                self.finished = True
            case "executing":
                node_id = str(data["node"])
                self._update(
                    state="running",
                    live=True,
                    node_id=node_id,
                    node=workflows.title(self.workflow, node_id),
                    value=0,
                    maximum=0,
                )
            case "progress":
                self._update(live=True, value=data.get("value", 0), maximum=data.get("max", 0))
            case "progress_state":
                states = data.get("nodes") or {}
                finished = {node_id for node_id, state in states.items() if state.get("state") == "finished"}
                self._done.update(finished & self.workflow.keys())  # nodes that a node expanded into are not counted
                self._update(live=True, done=len(self._done))
            case "execution_success" | "execution_error" | "execution_interrupted":
                self.finished = True

    def _image(self, event: Event) -> None:
        """Keep an image if the running node delivers its results this way; others are previews."""
        node_id = event.data.get("node_id") or self.progress.node_id
        if event.data.get("prompt_id") not in (None, self.prompt_id) or node_id not in self.workflow:
            return
        if self.workflow[node_id]["class_type"] == WEBSOCKET_RESULTS:
            self.images.append(OutputData(node_id, "image", f".{event.data['format']}", event.image))

    def _update(self, **changes: Any) -> None:
        updated = replace(self.progress, **changes)
        self.changed = self.changed or updated != self.progress
        self.progress = updated
