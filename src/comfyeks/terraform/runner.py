"""Runs Terraform: one process per root, a full log of each, progress on stderr, Terraform's own error messages.

Terraform writes to its log and not to a pipe: when this program is killed, Terraform finishes its work and saves its
state. It also inherits a lock on a file of this checkout. From that lock the next run knows whether Terraform is still
running, or was killed and left its state locked.
"""

from __future__ import annotations

import fcntl
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from getpass import getuser
from pathlib import Path
from typing import IO, Any

import boto3
import psutil
from botocore.exceptions import ClientError, WaiterError

from comfyeks import tools
from comfyeks.console import err, note
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError
from comfyeks.paths import REPO_ROOT, STATE
from comfyeks.terraform import interrupted_apply, protected_resources, provider_mirror
from comfyeks.terraform.protected_resources import Plan

ROOTS = {name: REPO_ROOT / "infra" / "terraform" / name for name in ("data", "platform")}

HEARTBEAT_SECONDS = 10.0
POLL_SECONDS = 0.2
# A state lock taken this soon after one of our runs started was taken by that run, because it held the lock file.
LOCK_WINDOW = timedelta(minutes=5)

ORPHAN_SECONDS = 10  # for a killed process to end
# Exit codes of a Terraform that has saved its state: succeeded, failed. Any other is a signal or a crash.
REGULAR_EXIT_CODES = (0, 1)

_ERROR_BLOCK = re.compile(r"^╷\n(?:│ ?.*\n)*?│ Error: (?:.*\n)*?╵$", re.MULTILINE)
_BEGIN = re.compile(r"^(\S.*): (?:Creating|Modifying|Destroying|Still \w+ing)\.\.\.")
_END = re.compile(r"^(\S.*): (Creation|Modifications|Destruction) complete after (?:(\d+)m)?(\d+)s")
_PLAN = re.compile(r"^Plan: (\d+) to add, (\d+) to change, (\d+) to destroy")
_RESULT = re.compile(r"^(?:Apply|Destroy) complete! (.*)|^(No changes)\.")
_SLOW_SECONDS = 5
_IMPORT_FAILED = "what an interrupted run created could not be imported"


class Progress:
    """Prints progress lines on stderr: seconds since the start, the root, what happened."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, root: str, text: str) -> None:
        err.print(
            f"{time.monotonic() - self._start:6.1f}s  {root:<9} {text}", markup=False, highlight=False, soft_wrap=True
        )


class Run:
    """A running `terraform` process; `poll` reads its log and prints progress."""

    def __init__(self, root: Root, verb: str, process: subprocess.Popen[bytes], log: Path, progress: Progress) -> None:
        self.root, self.verb, self.log = root, verb, log
        self._process, self._progress = process, progress
        self._reader: IO[str] = log.open(errors="replace")
        self._rest = ""
        self._total = 0
        self._done = 0
        self._busy: dict[str, float] = {}
        self._last_line = time.monotonic()

    def continue_with(self, process: subprocess.Popen[bytes]) -> None:
        """Follow another process that appends to the same log."""
        self._process = process

    def poll(self) -> bool:
        """Read the new lines of the log; return whether the process has ended."""
        ended = self._process.poll() is not None
        lines = (self._rest + self._reader.read()).split("\n")
        self._rest = lines.pop()
        for line in lines:
            self._read(line)
        if not ended and self._busy and time.monotonic() - self._last_line > HEARTBEAT_SECONDS:
            slowest, since = min(self._busy.items(), key=lambda item: item[1])
            more = f" and {len(self._busy) - 1} more" if len(self._busy) > 1 else ""
            self._say(f"{self._done}/{self._total}  waiting for {slowest} ({time.monotonic() - since:.0f}s){more}")
        return ended

    def close(self) -> None:
        self._reader.close()

    def check(self) -> None:
        """After the end: raise UserError for a rejected input variable, OperationError for any other failure."""
        if self._process.returncode == 0:
            return
        text = self.log.read_text(errors="replace")
        blocks = error_blocks(text)
        where = f"terraform {self.verb} of the {self.root.name} root failed; full log: {self.log}"
        if self._process.returncode not in REGULAR_EXIT_CODES:
            how = f"signal {-self._process.returncode}" if self._process.returncode < 0 else "a crash"
            where += f"\nit was ended by {how}: run this again; what it created will be imported"
        if blocks and all("Invalid value for variable" in block for block in blocks):
            raise UserError("\n".join(rejected_variable(block) for block in blocks))
        raise OperationError("\n".join([where, *(blocks or [_tail(text)])]))

    def _read(self, line: str) -> None:
        if match := _PLAN.match(line):
            self._total = sum(int(count) for count in match.groups())
            self._say(f"{line.removesuffix('.').removeprefix('Plan: ')}")
        elif match := _BEGIN.match(line):
            self._busy.setdefault(match[1], time.monotonic())
        elif match := _END.match(line):
            self._done += 1
            self._busy.pop(match[1], None)
            seconds = 60 * int(match[3] or 0) + int(match[4])
            if seconds >= _SLOW_SECONDS:
                self._say(f"{self._done}/{self._total}  {match[1]} {_PAST[match[2]]} after {seconds}s")
        elif match := _RESULT.match(line):
            self._say((match[1] or match[2]).rstrip("."))

    def _say(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._progress.say(self.root.name, text)


_PAST = {"Creation": "created", "Modifications": "changed", "Destruction": "destroyed"}


@dataclass(frozen=True)
class StartedRun:
    """A run that this checkout started; recorded in the lock file until it ends regularly."""

    started: datetime
    log: Path

    @classmethod
    def now(cls, log: Path) -> StartedRun:
        return cls(datetime.now(UTC), log)


def _read_runs(lock: IO[str]) -> list[StartedRun]:
    """The runs in the lock file: those that did not end regularly, oldest first."""
    lock.seek(0)
    recorded = json.loads(lock.read() or "[]")
    return [StartedRun(datetime.fromisoformat(run["started"]), Path(run["log"])) for run in recorded]


def _record_runs(lock: IO[str], runs: list[StartedRun]) -> None:
    """Write into the lock file what the next run needs to know if this one is killed."""
    lock.truncate(0)
    lock.write(json.dumps([{"started": run.started.isoformat(), "log": str(run.log)} for run in runs]))
    lock.flush()


@dataclass(frozen=True)
class Root:
    """One Terraform root (`data` or `platform`) of one deployment."""

    name: str
    deployment: Deployment

    @property
    def folder(self) -> Path:
        return ROOTS[self.name]

    @property
    def state_key(self) -> str:
        return f"terraform/{self.name}.tfstate"

    @property
    def scratch(self) -> Path:
        """Terraform's working folder, separate for each deployment, so that two backends never mix."""
        return self.deployment.dir / "terraform" / self.name

    @cached_property
    def _environment(self) -> dict[str, str]:
        return {**provider_mirror.environment(STATE), "TF_DATA_DIR": str(self.scratch), "TF_IN_AUTOMATION": "1"}

    def init(self) -> None:
        """Run `terraform init`. Raises OperationError with Terraform's error."""
        backend = {
            "bucket": self.deployment.bucket("artifacts"),
            "key": self.state_key,
            "region": self.deployment.region,
            "use_lockfile": "true",
            "encrypt": "true",
        }
        settings = [f"-backend-config={name}={value}" for name, value in backend.items()]
        self._quick("init", "-no-color", "-input=false", "-reconfigure", *settings)

    def outputs(self) -> dict[str, Any]:
        """Output values by name; empty before the first apply. Needs `init`."""
        answer = json.loads(self._quick("output", "-no-color", "-json"))
        return {name: output["value"] for name, output in answer.items()}

    def is_empty(self) -> bool:
        """Whether the state holds no resource. Needs `init`."""
        return not self._state_ids()

    def has_unfinished_run(self) -> bool:
        """Whether a run of this checkout was interrupted or is running: it may have created what is in no state."""
        try:
            return self._lock_file.stat().st_size > 0
        except FileNotFoundError:
            return False

    def _state_ids(self) -> dict[str, str]:
        """Address → id of every resource in the state; empty before the first apply."""
        state = json.loads(self._quick("show", "-json"))
        resources = state.get("values", {}).get("root_module", {}).get("resources", [])
        return {r["address"]: r["values"].get("id", "") for r in resources if "deposed_key" not in r}

    def preview(self, variables: list[str]) -> str | None:
        """What an apply would change, as "3 to add, 1 to change, 0 to destroy", or None. Takes no lock.

        Needs `init`. Raises OperationError with Terraform's error.
        """
        answer = self._quick("plan", "-input=false", "-no-color", "-lock=false", *variables)
        match = re.search(_PLAN.pattern, answer, re.MULTILINE)
        if match is not None:
            return match[0].removeprefix("Plan: ")
        return None if "No changes." in answer else "other outputs"

    @contextmanager
    def start(
        self, verb: str, variables: list[str], progress: Progress, accept: Callable[[Plan], None] | None = None
    ) -> Iterator[Run]:
        """Run `apply` or `destroy` while the block runs; leaving the block waits for its end.

        `variables` are arguments (`-var-file=…`). The change is planned first; `accept` gets the plan and raises to
        stop; exactly that plan is applied. An earlier run from this checkout that is still running is waited for. The
        state lock of one that was interrupted is released, and what it created is imported. Raises UserError or
        OperationError.
        """
        log = self._log(verb)
        with self._exclusively(log, variables, progress) as lock:
            destroy = ["-destroy"] if verb == "destroy" else []
            process = self._spawn(["plan", *destroy, f"-out={self._plan_file}", *variables], log, lock)
            run = Run(self, verb, process, log, progress)
            try:
                wait(run)
                plan = json.loads(self._quick("show", "-json", str(self._plan_file)))
                if accept is not None:
                    accept(plan)
                if plan.get("applyable", True):
                    process = self._spawn(["apply", str(self._plan_file)], log, lock)
                    run.continue_with(process)
                yield run
            finally:
                # Ctrl-C also reaches Terraform, which stops at the next safe point and saves its state.
                if process.poll() is None:
                    progress.say(self.name, "waiting for Terraform to end and save its state")
                    _wait_ignoring_interrupts(process)
                run.close()
                self._plan_file.unlink(missing_ok=True)
                if process.returncode in REGULAR_EXIT_CODES:
                    lock.truncate(0)

    def recover(self, variables: list[str], progress: Progress) -> None:
        """Import what interrupted runs created, as `start` does before it plans. Raises OperationError."""
        with self._exclusively(self._log("recover"), variables, progress) as lock:
            lock.truncate(0)

    @property
    def _import_folder(self) -> Path:
        return self.scratch / "import"

    @property
    def _lock_file(self) -> Path:
        return self.scratch / "running"

    @property
    def _plan_file(self) -> Path:
        return self.scratch / "plan"

    def _spawn(
        self, arguments: list[str], log: Path, lock: IO[str], folder: Path | None = None
    ) -> subprocess.Popen[bytes]:
        verb, *options = arguments
        argv = [str(tools.terraform()), f"-chdir={folder or self.folder}", verb, "-input=false", "-no-color"]
        argv += options
        with log.open("ab") as output:
            return subprocess.Popen(
                argv,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],  # held as long as Terraform runs, even when this program is killed
            )

    def _import_created(
        self, logs: list[Path], variables: list[str], progress: Progress, lock: IO[str], log: Path
    ) -> None:
        """Import what interrupted runs created and did not save in the state (comfyeks.terraform.interrupted_apply)."""
        created, known = interrupted_apply.read(logs), self._state_ids()
        if any(known.get(address, new_id) != new_id for address, new_id in created.items()):
            # Interrupted while a resource was replaced: the state still has the old one.
            self._refresh_state(variables, lock, log)
            known = self._state_ids()
        missing = {address: new_id for address, new_id in created.items() if address not in known}
        if not missing:
            return
        progress.say(
            self.name, f"an interrupted run may have created {len(missing)} resources that the state lacks: importing"
        )
        # A plan in which the completed ones are imported knows the names of the unfinished ones.
        by_id = interrupted_apply.by_id(missing)
        found, plan = self._plan_imports(by_id, variables, lock, targeted=False)
        unfinished = missing.keys() - by_id.keys()
        wanted = found | interrupted_apply.look_up(unfinished, plan["resource_changes"], self.deployment.region)
        # All in one plan: a target includes what it depends on, which would be created again if it were not imported.
        imported, plan = self._plan_imports(wanted, variables, lock, targeted=True) if wanted else ({}, {})
        if not imported:
            progress.say(self.name, "none of them exists")
            return
        # Some resources are replaced after the import, which does not know all arguments; protected ones must not be.
        if lost := protected_resources.protected(plan):
            raise OperationError(f"{_IMPORT_FAILED}: {', '.join(lost)} would be replaced")
        folder = interrupted_apply.folder(self.folder, self._import_folder)
        if self._spawn(["apply", str(self._plan_file)], log, lock, folder).wait() != 0:
            raise OperationError(f"{_IMPORT_FAILED}: Terraform failed; full log: {log}")
        self._wait_for_imported(imported)
        progress.say(self.name, f"imported {len(imported)} resources; list: {log}")

    def _plan_imports(
        self, wanted: dict[str, str], variables: list[str], lock: IO[str], *, targeted: bool
    ) -> tuple[dict[str, str], Plan]:
        """Plan the import of `wanted` (address → import id); return those that exist, and the plan.

        Raises OperationError.
        """
        while True:
            folder = interrupted_apply.write_copy(self.folder, self._import_folder, wanted)
            log = self._log("import-plan")
            targets = [f"-target={address}" for address in wanted] if targeted else []
            arguments = ["plan", f"-out={self._plan_file}", *targets, *variables]
            if self._spawn(arguments, log, lock, folder).wait() == 0:
                return wanted, json.loads(self._quick("show", "-json", str(self._plan_file)))
            failed = interrupted_apply.failed_imports(log.read_text(errors="replace")) & wanted.keys()
            if not failed:
                raise OperationError(f"{_IMPORT_FAILED}: Terraform failed; full log: {log}")
            wanted = {address: name for address, name in wanted.items() if address not in failed}

    def _refresh_state(self, variables: list[str], lock: IO[str], log: Path) -> None:
        """Remove from the state what no longer exists. Raises OperationError."""
        if self._spawn(["apply", "-refresh-only", "-auto-approve", *variables], log, lock).wait() != 0:
            raise OperationError(
                f"what an interrupted run was replacing could not be read: Terraform failed; full log: {log}"
            )

    def _wait_for_imported(self, imported: dict[str, str]) -> None:
        try:
            interrupted_apply.wait(imported, self.deployment.region)
        except WaiterError as error:
            raise OperationError(
                f"a resource that an interrupted run created does not become ready: {error}"
            ) from error

    @contextmanager
    def _exclusively(self, log: Path, variables: list[str], progress: Progress) -> Iterator[IO[str]]:
        """Hold the lock file of this root, after recovering from interrupted runs.

        The run that starts, with its `log`, is recorded in the file and counts as interrupted until it is truncated.
        """
        self.scratch.mkdir(parents=True, exist_ok=True)
        with self._lock_file.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.say(self.name, "an earlier run is still running: waiting for its end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if interrupted := _read_runs(lock):
                import_log = self._log("import")
                # They stay recorded until what they created is imported.
                _record_runs(lock, [*interrupted, StartedRun.now(import_log)])
                self._kill_orphans()
                self._release_stale_lock(interrupted, progress)
                self._import_created([run.log for run in interrupted], variables, progress, lock, import_log)
            _record_runs(lock, [StartedRun.now(log)])
            yield lock

    def _kill_orphans(self) -> None:
        """Kill providers whose Terraform was killed: they survive it and may be in the middle of a call."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if not process.name().startswith("terraform-provider-"):
                    continue
                parent = process.parent()
                orphan = parent is None or not parent.name().startswith("terraform")
                if orphan and process.environ().get("TF_DATA_DIR") == str(self.scratch):
                    process.kill()
                    process.wait(ORPHAN_SECONDS)

    def _release_stale_lock(self, interrupted: list[StartedRun], progress: Progress) -> None:
        """Release the state lock that one of these runs took and did not release."""
        s3 = boto3.client("s3", region_name=self.deployment.region)
        try:
            answer = s3.get_object(Bucket=self.deployment.bucket("artifacts"), Key=f"{self.state_key}.tflock")
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return
            raise OperationError(f"the state lock of the {self.name} root could not be read: {error}") from error
        info = json.loads(answer["Body"].read())
        created = _lock_time(info["Created"])
        ours = info["Who"] == f"{getuser()}@{socket.gethostname()}"
        for run in interrupted if ours else []:
            if run.started <= created <= run.started + LOCK_WINDOW:
                self._quick("force-unlock", "-no-color", "-force", info["ID"])
                progress.say(
                    self.name, f"released the state lock of an interrupted run (started {run.started:%H:%M:%S} UTC)"
                )
                return

    def _quick(self, verb: str, *arguments: str) -> str:
        """Run a command that takes seconds; return its stdout. Raises OperationError."""
        argv = [str(tools.terraform()), f"-chdir={self.folder}", verb, *arguments]
        self.scratch.mkdir(parents=True, exist_ok=True)
        answer = subprocess.run(argv, env=self._environment, capture_output=True, text=True, check=False)
        if answer.returncode:
            log = self._log(verb)
            log.write_text(answer.stdout + answer.stderr)
            blocks = error_blocks(answer.stderr) or [_tail(answer.stderr)]
            raise OperationError(
                "\n".join([f"terraform {verb} of the {self.name} root failed; full log: {log}", *blocks])
            )
        return answer.stdout

    def _log(self, verb: str) -> Path:
        folder = self.deployment.dir / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{self.name}-{verb}.log"


def wait(*runs: Run) -> None:
    """Follow runs until all have ended, then raise the error of the first that failed."""
    working = list(runs)
    while working:
        working = [run for run in working if not run.poll()]
        time.sleep(POLL_SECONDS if working else 0)
    for run in runs:
        run.check()


def error_blocks(text: str) -> list[str]:
    """Terraform's framed error messages in its output, without the frame."""
    return [
        "\n".join(line.removeprefix("│").removeprefix(" ") for line in match[0].splitlines()[1:-1])
        for match in _ERROR_BLOCK.finditer(text)
    ]


def rejected_variable(block: str) -> str:
    """The message of a variable's validation rule in one of Terraform's error blocks, on one line.

    The block: title, place, source line and value of the variable, the rule's message, the place of the rule.
    """
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", block)]
    return next(
        (part for part in paragraphs[2:] if not part.startswith("This was checked by")),
        paragraphs[-1],
    )


def _lock_time(text: str) -> datetime:
    """Parse the time in a state lock. It has nanoseconds, which Python does not read."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text))


def _wait_ignoring_interrupts(process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            note("still waiting: Terraform is saving its state")


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-15:])
