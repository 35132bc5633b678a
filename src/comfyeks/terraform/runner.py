"""Running Terraform: a process per root, a full log of each, progress for the person watching, errors as they stand.

Terraform writes to its log and not to a pipe: when this program is killed, Terraform finishes what it does and saves
its state. It also inherits a lock on a file of this checkout, which tells the next run whether Terraform is still at
work, or died and left the lock on its state behind.
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
# A state lock taken within this time after the start of a run of ours was taken by that run: it held the lock file.
LOCK_WINDOW = timedelta(minutes=5)

ORPHAN_SECONDS = 10  # to end a process that was killed
# What Terraform ends with when it has written its state: done, or failed. Anything else is a signal or a crash.
ENDED_IN_ORDER = (0, 1)

_ERROR_BLOCK = re.compile(r"^╷\n(?:│ ?.*\n)*?│ Error: (?:.*\n)*?╵$", re.MULTILINE)
_BEGIN = re.compile(r"^(\S.*): (?:Creating|Modifying|Destroying|Still \w+ing)\.\.\.")
_END = re.compile(r"^(\S.*): (Creation|Modifications|Destruction) complete after (?:(\d+)m)?(\d+)s")
_PLAN = re.compile(r"^Plan: (\d+) to add, (\d+) to change, (\d+) to destroy")
_RESULT = re.compile(r"^(?:Apply|Destroy) complete! (.*)|^(No changes)\.")
_SLOW_SECONDS = 5


class Progress:
    """Lines on stderr: seconds since the start, the root, what happened."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def say(self, root: str, text: str) -> None:
        err.print(
            f"{time.monotonic() - self._start:6.1f}s  {root:<9} {text}", markup=False, highlight=False, soft_wrap=True
        )


class Run:
    """One `terraform` process at work; `poll` moves its progress on."""

    def __init__(self, root: Root, verb: str, process: subprocess.Popen[bytes], log: Path, progress: Progress) -> None:
        self.root, self.verb, self.log = root, verb, log
        self._process, self._progress = process, progress
        self._reader: IO[str] = log.open(errors="replace")
        self._rest = ""
        self._total = 0
        self._done = 0
        self._busy: dict[str, float] = {}
        self._spoke = time.monotonic()

    def proceed(self, process: subprocess.Popen[bytes]) -> None:
        """Follow another process that writes on into the same log."""
        self._process = process

    def poll(self) -> bool:
        """Read what is new in the log; True once the process has ended."""
        ended = self._process.poll() is not None
        lines = (self._rest + self._reader.read()).split("\n")
        self._rest = lines.pop()
        for line in lines:
            self._read(line)
        if not ended and self._busy and time.monotonic() - self._spoke > HEARTBEAT_SECONDS:
            slowest, since = min(self._busy.items(), key=lambda item: item[1])
            more = f" and {len(self._busy) - 1} more" if len(self._busy) > 1 else ""
            self._say(f"{self._done}/{self._total}  waiting for {slowest} ({time.monotonic() - since:.0f}s){more}")
        return ended

    def close(self) -> None:
        self._reader.close()

    def check(self) -> None:
        """Raise what went wrong, after the end. A refused input is the user's, anything else a failure."""
        if self._process.returncode == 0:
            return
        text = self.log.read_text(errors="replace")
        blocks = error_blocks(text)
        where = f"terraform {self.verb} of the {self.root.name} root failed; full log: {self.log}"
        if self._process.returncode not in ENDED_IN_ORDER:
            how = f"signal {-self._process.returncode}" if self._process.returncode < 0 else "a crash"
            where += f"\nit was ended by {how}: run this again, and what it made will be adopted"
        if blocks and all("Invalid value for variable" in block for block in blocks):
            raise UserError("\n".join(refused_variable(block) for block in blocks))
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
        self._spoke = time.monotonic()
        self._progress.say(self.root.name, text)


_PAST = {"Creation": "created", "Modifications": "changed", "Destruction": "destroyed"}


@dataclass(frozen=True)
class Begun:
    """A run of this checkout that has begun: noted in the lock file until it ends in order."""

    started: datetime
    log: Path

    @classmethod
    def now(cls, log: Path) -> Begun:
        return cls(datetime.now(UTC), log)


def _noted(lock: IO[str]) -> list[Begun]:
    """The runs that did not end in order, the first one first."""
    lock.seek(0)
    noted = json.loads(lock.read() or "[]")
    return [Begun(datetime.fromisoformat(run["started"]), Path(run["log"])) for run in noted]


def _note(lock: IO[str], runs: list[Begun]) -> None:
    """Write into the lock file what the next run needs if this one dies."""
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
        """Terraform's working data, apart for each deployment, so that switching never mixes two backends."""
        return self.deployment.dir / "terraform" / self.name

    @cached_property
    def _environment(self) -> dict[str, str]:
        return {**provider_mirror.environment(STATE), "TF_DATA_DIR": str(self.scratch), "TF_IN_AUTOMATION": "1"}

    def init(self) -> None:
        """Prepare provider and backend. Raises OperationError with Terraform's error."""
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
        """Whether the state holds nothing. Needs `init`."""
        return not self._known()

    def was_killed(self) -> bool:
        """Whether a run of this checkout did not end in order, or is at work: it may have made what no state has."""
        try:
            return self._lock_file.stat().st_size > 0
        except FileNotFoundError:
            return False

    def _known(self) -> dict[str, str]:
        """Address → id of everything that the state knows; nothing before there is one."""
        state = json.loads(self._quick("show", "-json"))
        resources = state.get("values", {}).get("root_module", {}).get("resources", [])
        return {r["address"]: r["values"].get("id", "") for r in resources if "deposed_key" not in r}

    def preview(self, variables: list[str]) -> str | None:
        """What an apply would do, as "3 to add, 1 to change, 0 to destroy"; None for nothing. Takes no lock.

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
        """`apply` or `destroy` at work inside the block, ended when it is left.

        `variables` are arguments (`-var-file=…`). It is planned first; `accept` sees the plan and raises to stop there,
        and exactly that plan is applied. Waits for an earlier run of this user that was left alone; takes away the
        state lock of one that died, and adopts what it left. Raises UserError or OperationError.
        """
        log = self._log(verb)
        with self._alone(log, variables, progress) as lock:
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
                    run.proceed(process)
                yield run
            finally:
                # Ctrl-C reaches Terraform too: it stops at the next safe point and saves its state.
                if process.poll() is None:
                    progress.say(self.name, "waiting for Terraform to end and save its state")
                    _wait_however_impatient(process)
                run.close()
                self._plan_file.unlink(missing_ok=True)
                if process.returncode in ENDED_IN_ORDER:
                    lock.truncate(0)

    def recover(self, variables: list[str], progress: Progress) -> None:
        """Bring into the state what a killed run left, as `start` does before anything else. Raises OperationError."""
        with self._alone(self._log("recover"), variables, progress) as lock:
            lock.truncate(0)

    @property
    def _adoption(self) -> Path:
        return self.scratch / "adoption"

    @property
    def _lock_file(self) -> Path:
        return self.scratch / "running"

    @property
    def _plan_file(self) -> Path:
        return self.scratch / "plan"

    def _spawn(self, words: list[str], log: Path, lock: IO[str], folder: Path | None = None) -> subprocess.Popen[bytes]:
        verb, *arguments = words
        argv = [str(tools.terraform()), f"-chdir={folder or self.folder}", verb, "-input=false", "-no-color"]
        argv += arguments
        with log.open("ab") as output:
            return subprocess.Popen(
                argv,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],  # held for as long as Terraform lives, whatever happens to us
            )

    def _adopt(self, logs: list[Path], variables: list[str], progress: Progress, lock: IO[str], log: Path) -> None:
        """Bring into the state what dead runs made and did not write down (comfyeks.terraform.interrupted_apply)."""
        left, known = interrupted_apply.read(logs), self._known()
        if any(known.get(address, made) != made for address, made in left.items()):
            # Killed while something was replaced: the state has the old one still.
            self._forget_what_is_gone(variables, lock, log)
            known = self._known()
        left = {address: made for address, made in left.items() if address not in known}
        if not left:
            return
        progress.say(self.name, f"a killed run may have left {len(left)} resources: adopting")
        # A plan in which the others are imported knows the names of those that were under way.
        by_id = interrupted_apply.by_id(left)
        made, plan = self._plan_imports(by_id, variables, lock, targeted=False)
        unseen = left.keys() - by_id.keys()
        wanted = made | interrupted_apply.look_for(unseen, plan["resource_changes"], self.deployment.region)
        # All at once: a target brings what it depends on, which would be made anew if it were not imported too.
        adopted, plan = self._plan_imports(wanted, variables, lock, targeted=True) if wanted else ({}, {})
        if not adopted:
            progress.say(self.name, "nothing was left")
            return
        # Some are made anew: an import does not know all arguments. Not so what holds others.
        if lost := protected_resources.protected(plan):
            raise OperationError(f"what a killed run left could not be adopted: {', '.join(lost)} would be replaced")
        folder = interrupted_apply.folder(self.folder, self._adoption)
        if self._spawn(["apply", str(self._plan_file)], log, lock, folder).wait() != 0:
            raise OperationError(f"what a killed run left could not be adopted: Terraform failed; full log: {log}")
        self._await(adopted)
        progress.say(self.name, f"adopted {len(adopted)} resources; which: {log}")

    def _plan_imports(
        self, wanted: dict[str, str], variables: list[str], lock: IO[str], *, targeted: bool
    ) -> tuple[dict[str, str], Plan]:
        """A plan that imports what of `wanted` (address → import id) is there, and which these are.

        Raises OperationError.
        """
        while True:
            folder = interrupted_apply.write_shadow(self.folder, self._adoption, wanted)
            log = self._log("adopt-plan")
            targets = [f"-target={address}" for address in wanted] if targeted else []
            words = ["plan", f"-out={self._plan_file}", *targets, *variables]
            if self._spawn(words, log, lock, folder).wait() == 0:
                return wanted, json.loads(self._quick("show", "-json", str(self._plan_file)))
            refused = interrupted_apply.refused(log.read_text(errors="replace")) & wanted.keys()
            if not refused:
                raise OperationError(f"what a killed run left could not be adopted: Terraform failed; full log: {log}")
            wanted = {address: name for address, name in wanted.items() if address not in refused}

    def _forget_what_is_gone(self, variables: list[str], lock: IO[str], log: Path) -> None:
        """Take out of the state what is not there any more. Raises OperationError."""
        if self._spawn(["apply", "-refresh-only", "-auto-approve", *variables], log, lock).wait() != 0:
            raise OperationError(
                f"what a killed run was about to replace could not be read: Terraform failed; full log: {log}"
            )

    def _await(self, adopted: dict[str, str]) -> None:
        try:
            interrupted_apply.wait(adopted, self.deployment.region)
        except WaiterError as error:
            raise OperationError(f"something that a killed run left does not come up: {error}") from error

    @contextmanager
    def _alone(self, log: Path, variables: list[str], progress: Progress) -> Iterator[IO[str]]:
        """Hold the lock file of this root, with nothing left of runs that died.

        The run that begins, with its `log`, is noted there as one of those until the file is truncated.
        """
        self.scratch.mkdir(parents=True, exist_ok=True)
        with self._lock_file.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.say(self.name, "an earlier run is still at work: waiting for its end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if dead := _noted(lock):
                adopting = self._log("adopt")
                # What the dead ones left is lost no sooner than it is adopted.
                _note(lock, [*dead, Begun.now(adopting)])
                self._end_orphans()
                self._release_stale_lock(dead, progress)
                self._adopt([run.log for run in dead], variables, progress, lock, adopting)
            _note(lock, [Begun.now(log)])
            yield lock

    def _end_orphans(self) -> None:
        """Kill providers whose Terraform was killed: they live on, with whatever call was under way."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if not process.name().startswith("terraform-provider-"):
                    continue
                parent = process.parent()
                orphan = parent is None or not parent.name().startswith("terraform")
                if orphan and process.environ().get("TF_DATA_DIR") == str(self.scratch):
                    process.kill()
                    process.wait(ORPHAN_SECONDS)

    def _release_stale_lock(self, dead: list[Begun], progress: Progress) -> None:
        """Remove the state lock that one of these runs took and never gave back."""
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
        for run in dead if ours else []:
            if run.started <= created <= run.started + LOCK_WINDOW:
                self._quick("force-unlock", "-no-color", "-force", info["ID"])
                progress.say(
                    self.name, f"released the state lock of a run that was killed (started {run.started:%H:%M:%S} UTC)"
                )
                return

    def _quick(self, verb: str, *arguments: str) -> str:
        """Run a command that takes seconds; its stdout. Raises OperationError."""
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
    """Follow runs until all have ended, then raise what went wrong in the first of them."""
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


def refused_variable(block: str) -> str:
    """The sentence of a variable's validation rule out of Terraform's error block, on one line.

    The block: title, place, source line and value of the variable, the rule's sentence, where the rule stands.
    """
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", block)]
    return next(
        (part for part in paragraphs[2:] if not part.startswith("This was checked by")),
        paragraphs[-1],
    )


def _lock_time(text: str) -> datetime:
    """Terraform writes nanoseconds, which Python does not read."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text))


def _wait_however_impatient(process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            note("still waiting: the state would be lost")


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-15:])
