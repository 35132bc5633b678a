"""Queue, history and the one worker thread that runs prompts."""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import random
import string
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from comfyeks_local.comfyui.folders import Folders
from comfyeks_local.comfyui.graph import Graph, is_link
from comfyeks_local.comfyui.graph_nodes import GRAPH_NODES, Outcome

HISTORY_LIMIT = 10_000
# (number, prompt id, graph, extra_data, output node ids): the heap compares it as a whole, as on the server.
Item = tuple[float, str, Graph, dict[str, Any], list[str]]
# send(event, data, socket id or None for all); event is a name, or a number for binary data.
Send = Callable[[str | int, Any, str | None], None]
PREVIEW_IMAGE, PREVIEW_IMAGE_WITH_METADATA = 1, 4

_log = logging.getLogger(__name__)


class InterruptProcessingException(Exception):
    """A client interrupted the running prompt; the name is ComfyUI's."""


class PromptQueue:
    """Pending and running prompts, and the finished ones. Every method may be called from any thread."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._condition = threading.Condition(threading.RLock())
        self._pending: list[Item] = []
        self._running: Item | None = None
        self._history: dict[str, dict[str, Any]] = {}
        self._closed = False

    def put(self, item: Item) -> None:
        """Queue a prompt. Also raises TypeError if a pending one has its number and id, as on the server."""
        with self._condition:
            try:
                heapq.heappush(self._pending, item)
            finally:
                self._changed()
                self._condition.notify()

    def take(self) -> Item | None:
        """Wait for the next prompt, which is the running one from then on; None once the queue is closed."""
        with self._condition:
            while not self._pending and not self._closed:
                self._condition.wait()
            if self._closed:
                return None
            # Not heappop: two items with equal number and id cannot be compared, and the worker must survive that.
            self._pending.sort(key=lambda item: item[:2])
            self._running = self._pending.pop(0)
            self._changed()
            return self._running

    def finish(self, entry: dict[str, Any]) -> None:
        with self._condition:
            assert self._running is not None
            while len(self._history) >= HISTORY_LIMIT:
                del self._history[next(iter(self._history))]
            prompt_id = self._running[1]
            self._history.pop(prompt_id, None)
            self._history[prompt_id] = entry
            self._running = None
            self._changed()

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def remaining(self) -> int:
        with self._condition:
            return len(self._pending) + (self._running is not None)

    def current(self) -> tuple[list[Item], list[Item]]:
        """(running, pending); pending is in heap order, not run order."""
        with self._condition:
            return ([self._running] if self._running else []), list(self._pending)

    def running_id(self) -> str | None:
        with self._condition:
            return self._running[1] if self._running else None

    def clear(self) -> None:
        with self._condition:
            self._pending.clear()
            self._changed()

    def delete(self, prompt_id: str) -> bool:
        with self._condition:
            for index, item in enumerate(self._pending):
                if item[1] == prompt_id:
                    del self._pending[index]
                    self._pending.sort(key=lambda item: item[:2])
                    self._changed()
                    return True
            return False

    def history(self) -> dict[str, dict[str, Any]]:
        with self._condition:
            return dict(self._history)

    def forget(self, prompt_id: str | None = None) -> None:
        """Drop one finished prompt, or all of them."""
        with self._condition:
            if prompt_id is None:
                self._history.clear()
            else:
                self._history.pop(prompt_id, None)


class Executor:
    """Runs prompts one after the other in a thread of its own."""

    def __init__(
        self,
        folders: Folders,
        send: Send,
        *,
        wants_metadata: Callable[[str | None], bool],
        step_seconds: float,
        previews: bool,
        cache: bool,
        embed_metadata: bool,
    ) -> None:
        self.folders = folders
        self.send = send
        self.wants_metadata = wants_metadata
        self.step_seconds = step_seconds
        self.previews = previews
        self.embed_metadata = embed_metadata
        self.temp_prefix = "".join(random.choices(string.ascii_lowercase, k=5))  # noqa: S311 - a file name
        self.queue = PromptQueue(self._queue_changed)
        self.client_id: str | None = None
        self.last_node_id: str | None = None
        self._interrupt = threading.Event()
        self._keep_results = cache
        self._cache: dict[str, Outcome] = {}
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop after the running graph node, without finishing the queue, as on the server."""
        self.queue.close()
        self._interrupt.set()
        self._thread.join(timeout=30)

    def interrupt(self, prompt_id: str | None = None) -> bool:
        """Interrupt the running prompt, or only if it is `prompt_id`. Returns whether there was one to interrupt."""
        running = self.queue.running_id()
        if running is None or (prompt_id is not None and prompt_id != running):
            return False
        self._interrupt.set()
        return True

    def check_interrupt(self) -> None:
        if self._interrupt.is_set():
            self._interrupt.clear()
            raise InterruptProcessingException

    def _queue_changed(self) -> None:
        self.send("status", {"status": {"exec_info": {"queue_remaining": self.queue.remaining()}}}, None)

    def _work(self) -> None:
        while (item := self.queue.take()) is not None:
            _, prompt_id, graph, extra_data, outputs = item
            self.client_id = extra_data.get("client_id")
            self._interrupt.clear()
            run = _Run(self, prompt_id, graph, extra_data, outputs)
            success = run.execute()
            self.queue.finish(
                {
                    "prompt": list(item),
                    "outputs": run.ui,
                    "meta": {node_id: run.names(node_id) for node_id in run.ui},
                    "status": {
                        "status_str": "success" if success else "error",
                        "completed": success,
                        "messages": run.messages,
                    },
                }
            )
            if self.client_id is not None:
                self.send("executing", {"node": None, "prompt_id": prompt_id}, self.client_id)
            self.client_id = self.last_node_id = None

    def cached(self, signature: str) -> Outcome | None:
        return self._cache.get(signature)

    def store(self, signature: str, outcome: Outcome) -> None:
        self._cache[signature] = outcome

    def trim_cache(self, signatures: set[str]) -> None:
        """Drop results of nodes that the newest prompt does not have; with --cache-none those of all nodes."""
        keep = signatures if self._keep_results else set()
        self._cache = {key: outcome for key, outcome in self._cache.items() if key in keep}


class _Run:
    """Runs one prompt."""

    def __init__(
        self, executor: Executor, prompt_id: str, graph: Graph, extra_data: dict[str, Any], outputs: list[str]
    ) -> None:
        self.executor = executor
        self.prompt_id = prompt_id
        self.graph = graph
        self.extra_data = extra_data
        self.outputs = outputs
        self.client_id = executor.client_id
        self.ui: dict[str, dict[str, list[Any]]] = {}
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.executed: list[str] = []
        self.node_id = ""
        self._states: dict[str, dict[str, Any]] = {}
        self._signatures: dict[str, str] = {}
        self._values: dict[str, Outcome] = {}

    # What graph nodes see (graph_nodes.Context) ---------------------------------------------------------------------

    @property
    def folders(self) -> Folders:
        return self.executor.folders

    @property
    def step_seconds(self) -> float:
        return self.executor.step_seconds

    @property
    def previews(self) -> bool:
        method = self.extra_data.get("preview_method")
        return self.executor.previews if method in (None, "default") else method != "none"

    @property
    def temp_prefix(self) -> str:
        return self.executor.temp_prefix

    @property
    def metadata(self) -> dict[str, str]:
        if not self.executor.embed_metadata:
            return {}
        return {
            key: json.dumps(value)
            for key, value in {"prompt": self.graph, **self.extra_data.get("extra_pnginfo", {})}.items()
        }

    def progress(self, value: float, maximum: float, preview: tuple[str, bytes] | None = None) -> None:
        self.executor.check_interrupt()
        self._set_state(value, maximum, "running")
        self.executor.send(
            "progress",
            {"value": value, "max": maximum, "prompt_id": self.prompt_id, "node": self.node_id},
            self.client_id,
        )
        if preview is not None:
            self._send_preview(*preview)

    def _send_preview(self, image_format: str, data: bytes) -> None:
        if self.executor.wants_metadata(self.client_id):
            details = json.dumps(
                {
                    **self.names(self.node_id),
                    "prompt_id": self.prompt_id,
                    "display_node_id": self.node_id,
                    "real_node_id": self.node_id,
                    "parent_node_id": None,
                    "image_type": f"image/{image_format.lower()}",
                }
            ).encode()
            body = struct.pack(">I", len(details)) + details + data
            self.executor.send(PREVIEW_IMAGE_WITH_METADATA, body, self.client_id)
        else:
            body = struct.pack(">I", {"JPEG": 1, "PNG": 2}[image_format]) + data
            self.executor.send(PREVIEW_IMAGE, body, self.client_id)

    # Running ----------------------------------------------------------------------------------------------------------

    def execute(self) -> bool:
        self._message("execution_start")
        needed = list(self._in_order())
        signatures = {node_id: self._signature(node_id) for node_id in needed}
        self.executor.trim_cache(set(signatures.values()))
        cached = [
            node_id
            for node_id in self.graph
            if node_id in signatures and self.executor.cached(signatures[node_id]) is not None
        ]
        self._message("execution_cached", nodes=cached)
        for node_id in needed:
            self.node_id = node_id
            try:
                self._run_node(node_id)
            except InterruptProcessingException:
                self._message(
                    "execution_interrupted",
                    broadcast=True,
                    node_id=node_id,
                    node_type=self.graph[node_id]["class_type"],
                    executed=self.executed,
                )
                return False
            except Exception as error:
                _log.exception("graph node %s failed", node_id)
                self._message("execution_error", **self._error(node_id, error))
                return False
        self._message("execution_success")
        return True

    def _run_node(self, node_id: str) -> None:
        executor, signature = self.executor, self._signature(node_id)
        outcome = executor.cached(signature)
        if outcome is None:
            executor.last_node_id = node_id
            executor.check_interrupt()
            self._set_state(0, 1, "running")
            self._to_client("executing", {"node": node_id, "display_node": node_id, "prompt_id": self.prompt_id})
            outcome = GRAPH_NODES[self.graph[node_id]["class_type"]].run(self, **self._inputs(node_id))
            executor.store(signature, outcome)
            self._publish(node_id, outcome)
            state = self._states[node_id]
            self._set_state(state["max"], state["max"], "finished")
        else:
            self._publish(node_id, outcome)
        self._values[node_id] = outcome
        self.executed.append(node_id)

    def _publish(self, node_id: str, outcome: Outcome) -> None:
        if outcome.ui is not None:
            self.ui[node_id] = outcome.ui
            self._to_client(
                "executed",
                {"node": node_id, "display_node": node_id, "output": outcome.ui, "prompt_id": self.prompt_id},
            )

    def _inputs(self, node_id: str) -> dict[str, Any]:
        node = self.graph[node_id]
        declaration = GRAPH_NODES[node["class_type"]]
        known = {*declaration.required, *declaration.optional}
        return {
            name: self._values[value[0]].results[value[1]] if is_link(value) else value
            for name, value in node["inputs"].items()
            if name in known
        }

    def _in_order(self) -> Iterator[str]:
        """Every node that an output needs, each after the nodes that it needs itself."""
        done: set[str] = set()
        stack = [(output, False) for output in reversed(self.outputs)]
        while stack:
            node_id, ready = stack.pop()
            if node_id in done:
                continue
            if ready:
                done.add(node_id)
                yield node_id
            else:
                stack.append((node_id, True))
                links = [value[0] for value in self.graph[node_id]["inputs"].values() if is_link(value)]
                stack.extend((link, False) for link in reversed(links))

    def _signature(self, node_id: str) -> str:
        """A hash of class, literals, ancestors and input files: nodes with equal ones have the same result."""
        if node_id not in self._signatures:
            node = self.graph[node_id]
            declaration = GRAPH_NODES[node["class_type"]]
            inputs = {
                name: [self._signature(value[0]), value[1]] if is_link(value) else value
                for name, value in node["inputs"].items()
            }
            try:
                files = declaration.fingerprint(self.folders, node["inputs"]) if declaration.fingerprint else None
            except OSError:  # deleted since validation: running the node raises the error
                files = None
            recipe = json.dumps([node["class_type"], inputs, files], sort_keys=True)
            self._signatures[node_id] = hashlib.sha256(recipe.encode()).hexdigest()
        return self._signatures[node_id]

    # Messages ---------------------------------------------------------------------------------------------------------

    def names(self, node_id: str) -> dict[str, Any]:
        return {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}

    def _message(self, event: str, *, broadcast: bool = False, **data: Any) -> None:
        """Record a message in the history and send it; without a client id only broadcast messages are sent."""
        message = {"prompt_id": self.prompt_id, **data, "timestamp": int(time.time() * 1000)}
        self.messages.append((event, message))
        if broadcast or self.client_id is not None:
            self.executor.send(event, message, self.client_id)

    def _to_client(self, event: str, data: dict[str, Any]) -> None:
        if self.client_id is not None:
            self.executor.send(event, data, self.client_id)

    def _set_state(self, value: float, maximum: float, state: str) -> None:
        self._states[self.node_id] = {
            "value": value,
            "max": maximum,
            "state": state,
            "node_id": self.node_id,
            "prompt_id": self.prompt_id,
            "display_node_id": self.node_id,
            "parent_node_id": None,
            "real_node_id": self.node_id,
        }
        self.executor.send("progress_state", {"prompt_id": self.prompt_id, "nodes": dict(self._states)}, self.client_id)

    def _error(self, node_id: str, error: Exception) -> dict[str, Any]:
        module = type(error).__module__
        name = type(error).__name__
        inputs = self.graph[node_id]["inputs"]
        return {
            "node_id": node_id,
            "node_type": self.graph[node_id]["class_type"],
            "executed": self.executed,
            "exception_message": f"{error}\n",
            "exception_type": name if module == "builtins" else f"{module.split('.')[0]}.{name}",
            "traceback": traceback.format_tb(error.__traceback__),
            "current_inputs": {key: [str(value)] for key, value in inputs.items() if not is_link(value)},
            "current_outputs": list(self.graph),
        }
