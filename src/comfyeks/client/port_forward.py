"""Reaches a pod from outside the cluster with `kubectl port-forward`, restarted whenever it ends."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from comfyeks import tools
from comfyeks.errors import OperationError

POD_PORT = 8848
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")
_START_SECONDS = 30.0
_RESTART_SECONDS = 1.0


@contextmanager
def port_forward(namespace: str, target: str) -> Iterator[str]:
    """The local URL of a pod of `target` (`deploy/comfyui`, `pod/…`) in kubectl's current context, on a free port.

    kubectl ends when the pod does; it is started again on the same port, so that a waiting client finds the next pod.
    Raises OperationError with kubectl's message when it cannot start.
    """
    forwarder = _Forwarder(namespace, target)
    try:
        yield forwarder.start()
    finally:
        forwarder.close()


class _Forwarder:
    def __init__(self, namespace: str, target: str) -> None:
        self._command = [
            str(tools.kubectl()),
            "--namespace",
            namespace,
            "port-forward",
            "--address",
            "127.0.0.1",
            target,
        ]
        self._port = ""
        self._closing = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._output: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="port-forward", daemon=True)

    def start(self) -> str:
        self._thread.start()
        lines = []
        try:
            while (line := self._output.get(timeout=_START_SECONDS)) is not None:
                lines.append(line.strip())
                if match := _FORWARDING.match(line):
                    self._port = match[1]
                    return f"http://127.0.0.1:{self._port}"
        except Empty:
            pass
        self.close()
        raise OperationError(
            f"kubectl port-forward did not start: {'; '.join(filter(None, lines)) or 'it printed nothing'}"
        )

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            if self._process is not None:
                self._process.terminate()
        self._thread.join(10)

    def _work(self) -> None:
        while not self._closing.is_set():
            with self._lock:
                if self._closing.is_set():
                    return
                self._process = subprocess.Popen(
                    [*self._command, f"{self._port}:{POD_PORT}"],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    start_new_session=True,  # not interrupted by Ctrl-C: the job is cancelled through it
                )  # fmt: skip
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if not self._port:
                    self._output.put(line)
            self._process.wait()
            if not self._port:
                self._output.put(None)
                return
            self._closing.wait(_RESTART_SECONDS)
