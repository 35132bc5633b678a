"""The local AWS: two emulators on loopback ports, started, watched and stopped together.

moto and MiniStack each cover services that the other lacks. `MOTO_SERVICES` lists those of moto, and the SDKs' endpoint
variables do the routing, so no program notices that it does not talk to AWS. Both keep their state in memory, and their
states refer to each other (MiniStack's EKS names moto's subnets): if one has died, both start from empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import shutil
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
import botocore.session
from botocore.config import Config

from comfyeks.errors import OperationError
from comfyeks.files import write_atomically
from comfyeks.paths import STATE
from comfyeks_local.processes import Process, kill_marked, wait_until

HOST = "127.0.0.1"  # an address, not a name: SDKs then use path-style S3 by themselves
ACCOUNT = "123456789012"
REGION = "us-west-2"
PARTS = {"ministack": 4566, "moto": 4567}  # name: preferred port
MOTO_SERVICES = (  # by service_id()
    "ACM",
    "CLOUDWATCH",
    "EC2",
    "EFS",
    "ELASTIC_LOAD_BALANCING_V2",
    "IAM",
    "SERVICE_QUOTAS",
    "SSM",
    "WAFV2",
)

# Marks the emulators and everything they start, even after their parent has ended; the value is the home folder.
_MARK = "COMFYEKS_EMULATOR_HOME"
# The user's own profile or session token must never be used with the local endpoints.
UNSET = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")

_LOCK_SECONDS = 120.0  # how long to wait for another `up` or `down` of the same home
_HEALTH_SECONDS = 5.0  # how long to wait for the answer of an emulator that is already up

# Requests to loopback must not go through the user's proxy.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class PartStatus:
    """One emulator. `state` is running, unresponsive (alive, but not answering), dead (ended by itself) or stopped."""

    name: str
    state: str
    pid: int | None
    endpoint: str | None
    log: Path


@dataclass(frozen=True)
class Started:
    """The result of `up`. `dead` are the emulators that had died since the last `up`, `seconds` is its duration."""

    already_running: bool
    dead: tuple[str, ...]
    seconds: float


class LocalAws:
    """The local AWS of one home folder (default: `.comfyeks/local` of this checkout).

    As a context manager it is up inside the block and down after it.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.home = (home or STATE / "local").resolve()
        self._state = self.home / "state.json"
        self._env = self.home / "env.json"
        self._tmp = self.home / "tmp"
        self._processes = {name: Process(self.home, name) for name in PARTS}

    def __enter__(self) -> LocalAws:
        self.up()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.down()

    def up(self, timeout: float = 60) -> Started:
        """Start both emulators and wait until they answer; does nothing if both are up.

        Raises OperationError with the end of the log if one does not answer within `timeout` seconds.
        """
        begun = time.monotonic()
        with self._locked():
            states = {part.name: part.state for part in self.status()}
            if set(states.values()) == {"running"}:
                return Started(already_running=True, dead=(), seconds=time.monotonic() - begun)
            dead = tuple(name for name, state in states.items() if state in ("dead", "unresponsive"))
            previous = self._endpoints()
            self._stop()
            try:
                self._start(previous, timeout)
            except BaseException:
                self._stop()
                raise
        return Started(already_running=False, dead=dead, seconds=time.monotonic() - begun)

    def down(self) -> None:
        """Stop both emulators and everything they started. Logs stay."""
        if self.home.exists():
            with self._locked():
                self._stop()

    def status(self) -> list[PartStatus]:
        """The state of each emulator now; sends a request to each one that is alive."""
        endpoints = self._endpoints()
        parts = []
        for name, process in self._processes.items():
            endpoint = endpoints.get(name)
            if (pid := process.pid) is None:
                state = "dead" if process.recorded() else "stopped"
            else:
                state = "running" if endpoint and self._answers(name, endpoint, _HEALTH_SECONDS) else "unresponsive"
            parts.append(PartStatus(name, state, pid, endpoint, process.log))
        return parts

    def env(self) -> dict[str, str]:
        """Variables that point the AWS SDKs, terraform, chalice and aws here. Raises OperationError if it is not up."""
        if not self._env.exists():
            raise OperationError("the local AWS is not up: start it with `comfyeks local up`")
        variables: dict[str, str] = json.loads(self._env.read_text())
        return variables | _proxy_exceptions(os.environ)

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment for a subprocess: `base` (default: this process's) with every AWS setting pointing here."""
        base = os.environ if base is None else base
        foreign = {*UNSET, *(name for name in base if name.startswith("AWS_ENDPOINT_URL"))}
        return {name: value for name, value in base.items() if name not in foreign} | self.env()

    def endpoint(self, service: str) -> str:
        """URL of the emulator that serves a boto3 service."""
        return _endpoint(self.env(), service)

    def client(self, service: str) -> Any:
        """A boto3 client of the local AWS, independent of the environment of this process."""
        return local_client(self.env(), service)

    def calls(self) -> dict[str, int]:
        """Number of AWS calls to both emulators since their start, by name ("ssm.SendCommand")."""
        total: dict[str, int] = {}
        for endpoint in self._running_endpoints():
            for name, count in _request("GET", f"{endpoint}/_local/calls").items():
                total[name] = total.get(name, 0) + count
        return dict(sorted(total.items()))

    def inject(self, *faults: Mapping[str, Any]) -> None:
        """Make calls fail; `comfyeks_local.emulators.traffic.Fault` has the fields."""
        for endpoint in self._running_endpoints():
            _request("POST", f"{endpoint}/_local/faults", list(faults))

    def clear_faults(self) -> None:
        """Remove all faults that have not happened yet."""
        for endpoint in self._running_endpoints():
            _request("DELETE", f"{endpoint}/_local/faults")

    def set_shortages(self, *shortages: tuple[str, str]) -> None:
        """Set what EC2 has no capacity for from now on: (spot, on-demand or *; instance type, such as g6.* or *)."""
        _request("PUT", f"{self.env()['AWS_ENDPOINT_URL_EC2']}/_local/shortages", shortages)

    def _running_endpoints(self) -> list[str]:
        env = self.env()
        return [env["AWS_ENDPOINT_URL"], env["AWS_ENDPOINT_URL_EC2"]]

    def _endpoints(self) -> dict[str, str]:
        """Endpoints of the last start that succeeded, by emulator."""
        try:
            endpoints: dict[str, str] = json.loads(self._state.read_text())["endpoints"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {}
        return endpoints

    def _start(self, previous: Mapping[str, str], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._tmp.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            # Bound here and inherited, so that no other program can take the port in between, and a client that
            # connects early waits in the backlog instead of being refused.
            sockets = {
                name: stack.enter_context(_listen(_port(previous.get(name)), default))
                for name, default in PARTS.items()
            }
            endpoints = {name: f"http://{HOST}:{bound.getsockname()[1]}" for name, bound in sockets.items()}
            env = _client_env(endpoints)
            for name, bound in sockets.items():
                self._processes[name].start(
                    [sys.executable, "-m", f"comfyeks_local.emulators.{name}_server", "--fd", str(bound.fileno())],
                    self._server_env(env, endpoints),
                    pass_fds=(bound.fileno(),),
                )
        with ThreadPoolExecutor(len(endpoints)) as pool:
            ready = {
                name: pool.submit(self._answers, name, endpoint, deadline - time.monotonic())
                for name, endpoint in endpoints.items()
            }
        for name, answer in ready.items():
            if not answer.result():
                process = self._processes[name]
                with contextlib.suppress(TimeoutError):  # it closes its socket before it has logged why it ends
                    wait_until(f"end of {name}", partial(_ended, process), seconds=2)
                how = "ended" if process.pid is None else f"did not answer within {timeout:.0f} s"
                raise OperationError(f"{name} {how}; the end of {process.log}:\n{process.tail()}")
        write_atomically(self._state, json.dumps({"endpoints": endpoints}, indent=2) + "\n")
        write_atomically(self._env, json.dumps(env, indent=2) + "\n")

    def _server_env(self, client_env: Mapping[str, str], endpoints: Mapping[str, str]) -> dict[str, str]:
        """Environment of the emulators and, because MiniStack passes it on, of the Lambda functions."""
        foreign = ("AWS_", "MOTO_", "MINISTACK_", "LAMBDA_", "S3_", "LOCALSTACK_", "COMFYEKS_", "DOCKER_")
        base = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        for name in ("PERSIST_STATE", "AUTH", "SERVICES", "USE_SSL", "EDGE_PORT"):  # other settings of MiniStack
            base.pop(name, None)
        return {
            **base,
            **client_env,
            **_proxy_exceptions(os.environ),
            _MARK: str(self.home),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self._tmp),
            "MOTO_DISABLE_GLOBAL_CORS": "1",
            "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            "MINISTACK_REGION": REGION,
            "MINISTACK_HOST": HOST,
            "GATEWAY_PORT": str(_port(endpoints["ministack"])),
            "IOT_MTLS_ENABLED": "0",  # otherwise it opens port 8883 on every interface
            "SFTP_ENABLED": "0",
            "DOCKER_HOST": f"unix://{self._tmp}/no-docker.sock",  # the same behaviour with and without Docker
            "STATE_DIR": str(self._tmp / "ministack"),
            "S3_DATA_DIR": str(self._tmp / "s3"),
        }

    def _answers(self, name: str, endpoint: str, timeout: float) -> bool:
        try:
            return bool(_request("GET", f"{endpoint}/_local/health", timeout=timeout)["part"] == name)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _stop(self) -> None:
        # Nothing needs to be saved: all state is in memory.
        for process in self._processes.values():
            process.kill()
        kill_marked(_MARK, str(self.home))
        for path in (self._env, self._state):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._tmp, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Allow one `up` or `down` at a time; the kernel releases the lock of a killed process."""
        self.home.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + _LOCK_SECONDS
        with (self.home / "lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise OperationError(
                            f"another `comfyeks local up` or `down` of {self.home} has run for {_LOCK_SECONDS:.0f} s; "
                            "try again when it has ended"
                        ) from None
                    time.sleep(0.05)
            yield


def local_client(env: Mapping[str, str], service: str) -> Any:
    """A boto3 client for the local AWS that `env` points at, independent of the user's environment and profiles."""
    session: Any = boto3.Session(botocore_session=botocore.session.Session({"profile": (None, None, None, None)}))
    return session.client(
        service,
        region_name=env["AWS_REGION"],
        endpoint_url=_endpoint(env, service),
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        config=Config(proxies={}),
    )


@functools.cache
def service_id(service: str) -> str:
    """The name of a service in the SDKs' variables: ELASTIC_LOAD_BALANCING_V2 for boto3's `elbv2`."""
    name: str = botocore.session.Session().get_service_model(service).service_id
    return name.upper().replace(" ", "_")


def _endpoint(env: Mapping[str, str], service: str) -> str:
    return env.get(f"AWS_ENDPOINT_URL_{service_id(service)}", env["AWS_ENDPOINT_URL"])


def _listen(previous: int | None, default: int) -> socket.socket:
    """A listening socket on the previous loopback port, else the default one, else any free one.

    With the previous port, an exported environment stays right.
    """
    freed = time.monotonic() + 1  # a killed process with many threads releases its port a moment after its end
    while previous and time.monotonic() < freed:
        if (found := _bound(previous)) is not None:
            return found
        time.sleep(0.02)
    for port in (default, 0):
        if (found := _bound(port)) is not None:
            return found
    raise OperationError(f"there is no free TCP port on {HOST}")


def _bound(port: int) -> socket.socket | None:
    candidate = socket.socket()
    candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        candidate.bind((HOST, port))
        candidate.listen(128)
    except OSError:
        candidate.close()
        return None
    return candidate


def _ended(process: Process) -> bool:
    return not process.alive()


def _port(endpoint: str | None) -> int | None:
    return int(endpoint.rpartition(":")[2]) if endpoint else None


def _client_env(endpoints: Mapping[str, str]) -> dict[str, str]:
    """The variables of `LocalAws.env`."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": endpoints["ministack"],
        **{f"AWS_ENDPOINT_URL_{service}": endpoints["moto"] for service in MOTO_SERVICES},
        "AWS_MAX_ATTEMPTS": "3",  # otherwise a call that an emulator does not support is retried for minutes
        "CHECKPOINT_DISABLE": "1",  # terraform's version check
        "COMFYEKS_API_ALLOWED_CIDRS": "192.0.2.1/32",  # required by the platform root; a documentation address
    }


def _proxy_exceptions(base: Mapping[str, str]) -> dict[str, str]:
    """no_proxy variables that keep requests to loopback away from the user's proxy, if there is one."""
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in base):
        return {}
    exceptions = ",".join(filter(None, [base.get("no_proxy") or base.get("NO_PROXY"), HOST]))
    return {"no_proxy": exceptions, "NO_PROXY": exceptions}


def _request(method: str, url: str, body: Any = None, timeout: float = _HEALTH_SECONDS) -> Any:
    """The JSON answer of an emulator's `/_local/` endpoint. Raises OSError (also for an HTTP error), ValueError."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method)  # noqa: S310 - our own loopback endpoint
    with _http.open(request, timeout=max(timeout, 0.01)) as response:
        return json.load(response)
