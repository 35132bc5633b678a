"""Starting and stopping the local AWS, also after failures."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from comfyeks.errors import OperationError
from comfyeks_local.emulators import local_aws as emulators
from comfyeks_local.emulators.local_aws import PARTS, LocalAws

PORTS_FILE = "state.json"


def of_home(home: Path) -> list[psutil.Process]:
    """Every process that belongs to a home, found by its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("COMFYEKS_EMULATOR_HOME") == str(home):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def pids(aws: LocalAws) -> dict[str, int | None]:
    return {part.name: part.pid for part in aws.status()}


def works(aws: LocalAws) -> bool:
    account = aws.client("sts").get_caller_identity()["Account"]
    return bool(account == "123456789012" and aws.client("ec2").describe_vpcs()["Vpcs"])


def test_nothing_is_up_in_an_empty_home(home: Path) -> None:
    aws = LocalAws(home)
    assert [part.state for part in aws.status()] == ["stopped", "stopped"]
    with pytest.raises(OperationError, match="comfyeks local up"):
        aws.env()
    aws.down()
    assert not home.exists()


def test_the_environment_of_a_subprocess_points_only_at_the_local_aws(home: Path) -> None:
    home.mkdir()
    env = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_REGION": "us-west-2"}
    (home / "env.json").write_text(json.dumps(env))
    base = {"PATH": "/bin", "AWS_PROFILE": "prod", "AWS_SESSION_TOKEN": "t", "AWS_ENDPOINT_URL_S3": "https://elsewhere"}
    assert LocalAws(home).environment(base) == {"PATH": "/bin", **env}


def test_requests_to_the_emulators_go_around_a_proxy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "env.json").write_text("{}")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "corp.example")
    assert LocalAws(home).env()["no_proxy"] == "corp.example,127.0.0.1"


@pytest.mark.local
class TestProcesses:
    def test_up_twice_starts_once_and_down_leaves_no_process(self, home: Path) -> None:
        aws = LocalAws(home)
        first = aws.up()
        assert works(aws)
        before = pids(aws)
        second = LocalAws(home).up()
        assert (first.already_running, second.already_running) == (False, True)
        assert pids(aws) == before
        assert first.seconds < 10
        aws.down()
        assert of_home(home) == []
        assert [part.state for part in aws.status()] == ["stopped", "stopped"]
        assert not (home / "env.json").exists()
        assert not (home / "tmp").exists()

    def test_state_survives_a_second_up(self, home: Path) -> None:
        aws = LocalAws(home)
        aws.up()
        aws.client("s3").create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        aws.up()
        assert [bucket["Name"] for bucket in aws.client("s3").list_buckets()["Buckets"]] == ["bucket"]

    @pytest.mark.parametrize("victim", [*PARTS, "both"])
    def test_after_kill_9_up_names_the_dead_emulator_and_starts_both_from_empty(self, home: Path, victim: str) -> None:
        aws = LocalAws(home)
        aws.up()
        aws.client("s3").create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        env, before = aws.env(), pids(aws)
        victims = list(PARTS) if victim == "both" else [victim]
        for name in victims:
            os.kill(before[name] or 0, signal.SIGKILL)
        wait_for(lambda: {part.state for part in aws.status() if part.name in victims} == {"dead"})
        started = LocalAws(home).up()
        assert started.dead == tuple(victims)
        assert not set(before.values()) & set(pids(aws).values())
        assert aws.client("s3").list_buckets()["Buckets"] == []
        assert aws.env() == env  # the same ports, so an environment that was exported before stays valid

    def test_a_stale_pid_file_with_the_pid_of_another_process_is_ignored(self, home: Path) -> None:
        bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        try:
            (home / "run").mkdir(parents=True)
            (home / "run" / "moto.json").write_text(json.dumps({"pid": bystander.pid, "started": 1.0}))
            aws = LocalAws(home)
            assert {part.name: part.state for part in aws.status()}["moto"] == "dead"
            assert aws.up().dead == ("moto",)
            assert works(aws)
            aws.down()
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()

    def test_a_damaged_state_file_does_not_stop_up(self, home: Path) -> None:
        aws = LocalAws(home)
        aws.up()
        (home / PORTS_FILE).write_text("{ not json")
        aws.up()
        assert works(aws)

    def test_a_taken_port_is_not_used(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            monkeypatch.setitem(PARTS, "moto", port)
            aws = LocalAws(home)
            aws.up()
            assert not aws.endpoint("ec2").endswith(f":{port}")
            assert works(aws)

    def test_two_ups_at_once_start_it_once(self, home: Path) -> None:
        with ThreadPoolExecutor(2) as pool:
            ups = [pool.submit(subprocess.run, up_command(home), capture_output=True, text=True) for _ in range(2)]
        answers = [json.loads(up.result().stdout) for up in ups]
        assert sorted(answer["already_running"] for answer in answers) == [False, True]
        assert len(of_home(home)) == len(PARTS)

    def test_after_a_killed_up_the_next_one_works(self, home: Path) -> None:
        up = subprocess.Popen(up_command(home), stdout=subprocess.DEVNULL)
        wait_for(lambda: bool(of_home(home)))
        up.kill()
        up.wait()
        aws = LocalAws(home)
        aws.up()
        assert works(aws)
        assert len(of_home(home)) == len(PARTS)

    def test_down_stops_what_the_emulators_started_even_when_they_are_dead(self, home: Path) -> None:
        aws = LocalAws(home)
        aws.up()
        [ministack] = [part for part in aws.status() if part.name == "ministack"]
        orphan = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"],
            env={**os.environ, "COMFYEKS_EMULATOR_HOME": str(home)},
            start_new_session=True,
        )
        os.kill(ministack.pid or 0, signal.SIGKILL)
        aws.down()
        assert of_home(home) == []
        orphan.wait(timeout=5)

    def test_an_emulator_that_cannot_start_is_named_with_the_end_of_its_log(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(emulators, "REGION", "no\0where")  # not possible in an environment
        with pytest.raises(ValueError, match="null"):
            LocalAws(home).up()
        assert of_home(home) == []
        monkeypatch.undo()
        monkeypatch.setenv("PYTHONHOME", "/nonexistent")
        with pytest.raises(OperationError, match=r"(ministack|moto) ended; the end of .*\.log:\n(.|\n)*Python"):
            LocalAws(home).up()
        assert of_home(home) == []

    @pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed"])
    def test_functions_run_inside_its_home_and_end_with_it(self, home: Path, tmp_path: Path, killed: bool) -> None:
        with LocalAws(home) as aws:
            functions, code = aws.client("lambda"), io.BytesIO()
            with zipfile.ZipFile(code, "w") as archive:
                archive.writestr("app.py", "import os\ndef handler(event, context): return [os.getpid(), os.getcwd()]")
            functions.create_function(
                FunctionName="f",
                Runtime="python3.11",
                Role="arn:aws:iam::123456789012:role/any",
                Handler="app.handler",
                Code={"ZipFile": code.getvalue()},
            )
            pid, folder = json.load(functions.invoke(FunctionName="f")["Payload"])
            assert pid in [process.pid for process in of_home(home)]
            assert Path(folder).is_relative_to(home)
            if killed:
                os.kill(pids(aws)["ministack"] or 0, signal.SIGKILL)
        assert of_home(home) == []
        assert not Path(folder).exists()
        assert list(tmp_path.iterdir()) == [home]


def up_command(home: Path) -> list[str]:
    code = (
        "import json, sys; from pathlib import Path; from comfyeks_local.emulators.local_aws import LocalAws; "
        "print(json.dumps(vars(LocalAws(Path(sys.argv[1])).up())))"
    )
    return [sys.executable, "-c", code, str(home)]


def wait_for(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
