"""Running Terraform: progress, errors, a run whose command was killed, a run that was killed itself."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from getpass import getuser
from pathlib import Path

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError
from comfyeks.terraform import protected_resources
from comfyeks.terraform.runner import Plan, Progress, Root, error_blocks, rejected_variable, wait

Fake = Callable[..., Path]

REFUSED = """\
╷
│ Error: Invalid value for variable
│
│   on variables.tf line 44:
│   44: variable "api_allowed_cidrs" {
│     ├────────────────
│     │ var.api_allowed_cidrs is list of string with 1 element
│
│ api_allowed_cidrs must be IPv4 ranges from /8 to /32, such as
│ 198.51.100.7/32.
│
│ This was checked by the validation rule at variables.tf:54,3-13.
╵
"""
BROKEN = """\
╷
│ Error: creating EKS Cluster (comfyui): LimitExceeded
│
│   with aws_eks_cluster.this,
│   on cluster.tf line 45, in resource "aws_eks_cluster" "this":
│   45: resource "aws_eks_cluster" "this" {
│
╵
"""


def apply(root: Root) -> None:
    with root.start("apply", [], Progress()) as run:
        wait(run)


def log(root: Root) -> Path:
    [path] = (root.deployment.dir / "logs").glob("*-apply.log")
    return path


@pytest.fixture
def root(state_bucket_there: Deployment, monkeypatch: pytest.MonkeyPatch) -> Root:
    monkeypatch.setattr("comfyeks.terraform.runner.POLL_SECONDS", 0.01)
    return Root("platform", state_bucket_there)


def test_progress_shows_slow_resources_and_the_result(
    root: Root, fake_terraform: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_terraform(
        "echo 'Plan: 3 to add, 0 to change, 0 to destroy.'; echo 'aws_vpc.this: Creating...';"
        "echo 'aws_eip.nat[\"a\"]: Creating...'; echo 'aws_eip.nat[\"a\"]: Creation complete after 4s [id=1]';"
        "echo 'aws_vpc.this: Creation complete after 5s [id=vpc-1]';"
        "echo 'aws_eks_cluster.this: Creation complete after 9m8s [id=comfyui]';"
        "echo 'Apply complete! Resources: 3 added, 0 changed, 0 destroyed.'"
    )
    apply(root)
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"^ +[\d.]+s +", "", line) for line in lines if " platform " in line] == [
        "platform  3 to add, 0 to change, 0 to destroy",
        "platform  2/3  aws_vpc.this created after 5s",
        "platform  3/3  aws_eks_cluster.this created after 548s",
        "platform  Resources: 3 added, 0 changed, 0 destroyed",
    ]


def test_waiting_names_the_resource_that_takes_longest(
    root: Root, fake_terraform: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfyeks.terraform.runner.HEARTBEAT_SECONDS", 0.3)
    fake_terraform(
        "echo 'Plan: 2 to add, 0 to change, 0 to destroy.'; echo 'aws_eks_cluster.this: Creating...'; sleep 0.3;"
        "echo 'aws_vpc.this: Creating...'; sleep 1"
    )
    apply(root)
    assert re.search(r"0/2  waiting for aws_eks_cluster\.this \(\ds\) and 1 more", capsys.readouterr().err)


def test_failure_shows_terraforms_own_error_and_where_the_log_is(root: Root, fake_terraform: Fake) -> None:
    fake_terraform(f"echo 'aws_vpc.this: Creating...'; cat <<'END'\n{BROKEN}END\nexit 1")
    with pytest.raises(OperationError) as raised:
        apply(root)
    assert "Error: creating EKS Cluster (comfyui): LimitExceeded" in str(raised.value)
    assert str(log(root)) in str(raised.value)
    assert "aws_vpc.this: Creating..." in log(root).read_text()


def test_rejected_variable_is_a_user_error_on_one_line(root: Root, fake_terraform: Fake) -> None:
    fake_terraform(f"cat <<'END'\n{REFUSED}END\nexit 1")
    with pytest.raises(UserError) as raised:
        apply(root)
    assert str(raised.value) == "api_allowed_cidrs must be IPv4 ranges from /8 to /32, such as 198.51.100.7/32."


def test_rejected_variable_beside_another_error_is_a_failure(root: Root, fake_terraform: Fake) -> None:
    fake_terraform(f"cat <<'END'\n{REFUSED}{BROKEN}END\nexit 1")
    with pytest.raises(OperationError):
        apply(root)


VPC = json.dumps(
    {
        "address": "aws_vpc.this",
        "type": "aws_vpc",
        "change": {"actions": ["delete", "create"], "replace_paths": [["cidr_block"]]},
    }
)


def test_exactly_the_plan_that_was_accepted_is_applied(root: Root, fake_terraform: Fake) -> None:
    calls = fake_terraform("true", changes=f"[{VPC}]")
    seen: list[Plan] = []
    with root.start("apply", ["-var-file=a"], Progress(), seen.append) as run:
        wait(run)
    assert seen == [{"resource_changes": [json.loads(VPC)]}]
    planned, _, applied = calls.read_text().splitlines()
    [file] = re.findall(r"-out=(\S+)", planned)
    assert planned.endswith("-var-file=a")
    assert applied == f"apply -input=false -no-color {file}"


def test_exactly_what_was_accepted_is_destroyed(root: Root, fake_terraform: Fake) -> None:
    calls = fake_terraform("true", changes=f"[{VPC}]")
    seen: list[Plan] = []
    with root.start("destroy", [], Progress(), seen.append) as run:
        wait(run)
    assert len(seen) == 1
    planned, _, applied = calls.read_text().splitlines()
    assert planned.startswith("plan -input=false -no-color -destroy -out=")
    assert applied.startswith("apply ")


def test_refused_plan_is_not_applied(root: Root, fake_terraform: Fake) -> None:
    calls = fake_terraform("true", changes=f"[{VPC}]")
    with (
        pytest.raises(UserError, match=r"aws_vpc.this \(new cidr_block\).*--allow-replacement"),
        root.start("apply", [], Progress(), partial(protected_resources.refuse, "platform")),
    ):
        pass
    assert "apply" not in calls.read_text()


@pytest.mark.parametrize("kind", ["aws_vpc", "aws_eks_cluster", "aws_s3_bucket", "aws_cognito_user_pool"])
@pytest.mark.parametrize("actions", [["delete"], ["delete", "create"], ["create", "delete"]])
def test_loss_of_a_protected_resource_is_refused_on_one_line(kind: str, actions: list[str]) -> None:
    plan = {"resource_changes": [{"address": f"{kind}.this", "type": kind, "change": {"actions": actions}}]}
    with pytest.raises(UserError, match=rf"^this would delete or replace {kind}\.this, [^\n]*$"):
        protected_resources.refuse("platform", plan)


@pytest.mark.parametrize(
    ("kind", "actions"), [("aws_vpc", ["create"]), ("aws_vpc", ["update"]), ("aws_eks_addon", ["delete", "create"])]
)
def test_other_changes_are_accepted(kind: str, actions: list[str]) -> None:
    protected_resources.refuse("platform", {"resource_changes": [{"type": kind, "change": {"actions": actions}}]})


def test_error_without_a_frame_shows_the_end_of_the_log(root: Root, fake_terraform: Fake) -> None:
    fake_terraform("echo 'panic: something'; exit 2")
    with pytest.raises(OperationError, match="panic: something"):
        apply(root)


def test_error_blocks_are_found_among_other_text() -> None:
    first, second = error_blocks(f"aws_vpc.this: Creating...\n{REFUSED}\nmore\n{BROKEN}")
    assert rejected_variable(first).startswith("api_allowed_cidrs must be")
    assert second.startswith("Error: creating EKS Cluster")


def test_warnings_are_not_errors() -> None:
    assert error_blocks("╷\n│ Warning: Deprecated\n│\n│ text\n╵\n") == []


def test_run_waits_for_an_earlier_one_that_is_still_at_work(
    root: Root, fake_terraform: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = fake_terraform("true")
    root.scratch.mkdir(parents=True)
    with (root.scratch / "running").open("a") as earlier:
        fcntl.flock(earlier, fcntl.LOCK_EX)
        thread = threading.Thread(target=apply, args=[root])
        thread.start()
        time.sleep(0.5)
        assert not calls.exists()
    thread.join(10)
    assert calls.read_text().startswith("plan")
    assert "an earlier run is still running" in capsys.readouterr().err


@pytest.mark.parametrize("mine", [True, False], ids=["of this deployment", "of another"])
def test_provider_that_outlived_its_terraform_is_killed(
    root: Root, fake_terraform: Fake, tmp_path: Path, mine: bool
) -> None:
    fake_terraform("true")
    killed(root, datetime.now(UTC))
    provider = tmp_path / "terraform-provider-aws_v5.100.0_x5"
    provider.symlink_to(shutil.which("sleep") or "")
    # Started by a shell that ends: without a parent, as after a kill of Terraform alone.
    answer = subprocess.run(
        ["bash", "-c", f"{provider} 600 > /dev/null 2>&1 & echo $!"],
        env={**os.environ, "TF_DATA_DIR": str(root.scratch if mine else tmp_path)},
        capture_output=True,
        text=True,
    )
    orphan = psutil.Process(int(answer.stdout))
    try:
        apply(root)
        ended = not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        assert ended == mine
    finally:
        with suppress(psutil.NoSuchProcess):
            orphan.kill()


COMMAND = """
import sys
from pathlib import Path
from comfyeks import deployment
from comfyeks.terraform import protected_resources
from comfyeks.terraform.runner import Plan, Progress, Root, wait
deployment.STATE = Path(sys.argv[1])
root = Root("platform", deployment.Deployment(project=None, region="us-west-2", account="111122223333"))
with root.start("apply", [], Progress()) as run:
    wait(run)
"""


def start_command(tmp_path: Path, begun: Path) -> subprocess.Popen[str]:
    """Start `apply` in a process group of its own, as in a terminal; return once Terraform created the file `begun`."""
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not begun.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return command


def test_terraform_outlives_the_command_that_started_it_and_the_next_run_waits(
    root: Root, fake_terraform: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_terraform(f"touch {tmp_path}/begun; sleep 1; touch {tmp_path}/ended")
    command = start_command(tmp_path, tmp_path / "begun")
    command.kill()
    command.communicate()
    assert not (tmp_path / "ended").exists()
    fake_terraform(f"test -e {tmp_path}/ended")
    apply(root)
    assert "an earlier run is still running" in capsys.readouterr().err


def test_interrupt_lets_terraform_save_its_state(fake_terraform: Fake, tmp_path: Path) -> None:
    fake_terraform(
        f"trap 'sleep 0.5; touch {tmp_path}/saved; exit 1' INT; touch {tmp_path}/begun;"
        "for i in {1..100}; do sleep 0.1; done"
    )
    command = start_command(tmp_path, tmp_path / "begun")
    os.killpg(command.pid, signal.SIGINT)  # Ctrl-C
    _, stderr = command.communicate(timeout=30)
    assert (tmp_path / "saved").exists()
    assert "waiting for Terraform to end and save its state" in stderr


def put_lock(root: Root, who: str, created: datetime) -> str:
    key = f"{root.state_key}.tflock"
    lock = {"ID": "lock-1", "Who": who, "Created": created.strftime("%Y-%m-%dT%H:%M:%S.%f") + "123Z"}
    boto3.client("s3").put_object(Bucket=root.deployment.bucket("artifacts"), Key=key, Body=json.dumps(lock))
    return key


def killed(root: Root, *started: datetime) -> None:
    """The lock file of runs that were killed together with their Terraform."""
    root.scratch.mkdir(parents=True)
    recorded = [{"started": each.isoformat(), "log": str(root.scratch / "no-log")} for each in started]
    (root.scratch / "running").write_text(json.dumps(recorded))


ME = f"{getuser()}@{socket.gethostname()}"


def test_state_lock_of_a_run_that_was_killed_is_released(root: Root, fake_terraform: Fake) -> None:
    calls = fake_terraform("true")
    started = datetime.now(UTC) - timedelta(hours=1)
    killed(root, started)
    put_lock(root, ME, started + timedelta(seconds=4))
    apply(root)
    assert calls.read_text().splitlines()[0] == "force-unlock -no-color -force lock-1"


def test_killed_terraform_is_recorded_for_the_next_run(root: Root, fake_terraform: Fake) -> None:
    """By the kernel, when memory runs out: the command that started it still runs."""
    fake_terraform("kill -9 $$")
    with pytest.raises(OperationError, match=r"signal 9: run this again"):
        apply(root)
    assert root.has_unfinished_run()


def test_state_lock_of_a_run_before_the_last_one_is_released(root: Root, fake_terraform: Fake) -> None:
    """The second run was killed before it could release it."""
    calls = fake_terraform("true")
    first = datetime.now(UTC) - timedelta(hours=1)
    killed(root, first, first + timedelta(minutes=10))
    put_lock(root, ME, first + timedelta(seconds=4))
    apply(root)
    assert calls.read_text().splitlines()[0] == "force-unlock -no-color -force lock-1"


def test_run_that_is_killed_while_it_imports_is_recorded_after_the_one_before(root: Root, fake_terraform: Fake) -> None:
    fake_terraform("false")
    started = datetime.now(UTC) - timedelta(hours=1)
    killed(root, started)
    put_lock(root, ME, started + timedelta(seconds=4))
    with pytest.raises(OperationError, match="force-unlock"):
        apply(root)
    recorded = json.loads((root.scratch / "running").read_text())
    assert len(recorded) == 2
    assert recorded[0]["started"] == started.isoformat()
    assert root.has_unfinished_run()


def test_no_run_is_unfinished_before_the_first_one_nor_after_one_that_ended(root: Root, fake_terraform: Fake) -> None:
    fake_terraform("true")
    assert not root.has_unfinished_run()
    apply(root)
    assert not root.has_unfinished_run()


@pytest.mark.parametrize(
    ("who", "after"),
    [("alice@laptop", timedelta(seconds=4)), (ME, timedelta(minutes=30)), (ME, -timedelta(seconds=4))],
    ids=["of somebody else", "of a later run", "of an earlier run"],
)
def test_state_lock_that_another_run_may_hold_is_kept(
    root: Root, fake_terraform: Fake, who: str, after: timedelta
) -> None:
    calls = fake_terraform("true")
    started = datetime.now(UTC) - timedelta(hours=1)
    killed(root, started)
    put_lock(root, who, started + after)
    apply(root)
    assert "force-unlock" not in calls.read_text()


def test_run_that_ended_regularly_is_not_recorded_for_the_next(root: Root, fake_terraform: Fake) -> None:
    calls = fake_terraform("exit 1")
    with pytest.raises(OperationError):
        apply(root)
    put_lock(root, ME, datetime.now(UTC))
    with pytest.raises(OperationError):
        apply(root)
    assert "force-unlock" not in calls.read_text()


def test_backend_is_the_artifacts_bucket_with_a_lock(root: Root, fake_terraform: Fake) -> None:
    calls = fake_terraform("true")
    root.init()
    arguments = calls.read_text().split()
    assert f"-backend-config=bucket={root.deployment.bucket('artifacts')}" in arguments
    assert "-backend-config=key=terraform/platform.tfstate" in arguments
    assert "-backend-config=use_lockfile=true" in arguments


def test_outputs_are_plain_values(root: Root, fake_terraform: Fake) -> None:
    fake_terraform("""echo '{"region": {"sensitive": false, "type": "string", "value": "us-west-2"}}'""")
    assert root.outputs() == {"region": "us-west-2"}


def test_lock_file_is_inherited_by_terraform_alone(root: Root, fake_terraform: Fake) -> None:
    """If another child process held the lock too, the next run would wait for it."""
    fake_terraform("sleep 0.5")
    with root.start("apply", [], Progress()) as run:
        other = subprocess.Popen(["sleep", "5"])
        wait(run)
    try:
        with (root.scratch / "running").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        other.kill()
        other.wait()


def test_unreadable_state_lock_is_a_failure(root: Root, fake_terraform: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_terraform("true")
    killed(root, datetime.now(UTC))
    denied = ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject")

    class Denied:
        def get_object(self, **_: str) -> None:
            raise denied

    monkeypatch.setattr(boto3, "client", lambda *_, **__: Denied())
    with pytest.raises(OperationError, match="state lock of the platform root could not be read"):
        apply(root)
