"""A stand-in for a GPU node: boots the real user data and runs the real node program as processes of this machine.

Real: the user data (launched with the EC2 instance and read back from it), the node program, its units, its transfer
tool, the SSM document's script. Replaced: cloud-init (the shell parts of the MIME text, on the first boot), nodeadm's
array of local disks (an entry in an invented mountinfo), systemd (`comfyeks_local.node.systemd`), the SSM agent
(`comfyeks_local.node.ssm_agent`). COMFYUI_NODE_ROOT puts every path of the node below `<home>/root`.

With a local cluster (`comfyeks_local.cluster`) it also reads the NodeConfig parts, as nodeadm does, and starts a
stand-in for kubelet.

What it cannot show: kubelet and containerd, a real NVMe array and its speed, instance metadata and IAM credentials
(the emulators check none), the sandboxing of units, users (all files belong to the user who started it), AWS CLI v2
(version 1 is used here).

    python -m comfyeks_local.node.local_node HOME     the supervisor of one node; LocalNode starts it
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email
import email.policy
import gzip
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import psutil
from botocore.exceptions import BotoCoreError, ClientError

from comfyeks.errors import OperationError, UserError
from comfyeks.files import write_atomically
from comfyeks_local.emulators.local_aws import local_client
from comfyeks_local.node.ssm_agent import Agent
from comfyeks_local.node.systemd import CONTROL, Systemd
from comfyeks_local.processes import Process, wait_until

ROOT_VARIABLE = "COMFYUI_NODE_ROOT"  # also marks every process of a node, even after its parent has ended
USER_DATA_LIMIT = 16_384  # bytes; EC2's, which the emulator does not check
BOOT_SECONDS = 120.0
STOP_SECONDS = 10.0
KUBELET_RESTART_SECONDS = 2.0
ARRAY = "/mnt/k8s-disks/0"
SYSTEM_FOLDERS = (
    "etc/systemd/system", "mnt", "proc/self", "root", "run", "sys/block", "tmp", "usr/local/bin", "var/lib/cloud",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """The hardware of a node; kept in `<home>/node.json`.

    `local_disks` is the number of NVMe disks, `array_delay` the seconds by which their array comes late, `python` the
    interpreter that the node's programs find as `python3`, `disk_bytes` the size that the models' disk reports.
    """

    instance_id: str
    instance_type: str
    local_disks: int
    array_delay: float
    python: str
    disk_bytes: int


class LocalNode:
    """One node in the folder `home`, which is its disk and survives `stop`, `kill` and a new `start`.

    `env` are the variables that point at the local AWS (`LocalAws.env()`); `user_data` and `tags` are those with which
    Karpenter would launch the instance.
    """

    def __init__(
        self,
        home: Path,
        env: Mapping[str, str],
        user_data: str = "",
        tags: Mapping[str, str] | None = None,
        instance_type: str = "g5.2xlarge",
        *,
        local_disks: int = 1,
        array_delay: float = 0.0,
        python: Path | None = None,
        disk_bytes: int = 450 * 10**9,
    ) -> None:
        self.home = home.resolve()
        self.root = self.home / "root"
        self._env = dict(env)
        self._user_data = user_data
        self._tags = dict(tags or {})
        self._machine = Machine(
            instance_id="",
            instance_type=instance_type,
            local_disks=local_disks,
            array_delay=array_delay,
            python=str((python or Path(sys.executable)).resolve()),
            disk_bytes=disk_bytes,
        )
        self._process = Process(self.home, "supervisor")

    @property
    def instance_id(self) -> str:
        """Raises OperationError before the first start."""
        return _machine(self.home).instance_id

    @property
    def models(self) -> Path:
        return self.root / "comfyui-models"

    @property
    def log(self) -> Path:
        return self._process.log

    def status(self) -> dict[str, Any]:
        """The status that the sync wrote to the node's disk; empty before its first run."""
        try:
            status: dict[str, Any] = json.loads((self.root / "var/lib/comfyui-model-sync/status.json").read_text())
        except FileNotFoundError:
            return {}
        return status

    def alive(self) -> bool:
        return self._process.alive()

    def start(self, timeout: float = BOOT_SECONDS) -> None:
        """Launch the instance (the first time) and boot it; returns once its user data has run.

        Raises OperationError when the user data fails or does not end in time, or when EC2 does not know the instance.
        """
        if self.alive():
            return
        self._kill_remaining_processes()
        if not (self.home / "node.json").exists():
            self._launch()
        else:
            self._set_running(True)
        (self.home / "boot.json").unlink(missing_ok=True)
        self._process.start([sys.executable, "-m", "comfyeks_local.node.local_node", self.home], self._environment())
        try:
            wait_until(f"boot of {self.instance_id}", lambda: bool(self._booted() or not self.alive()), timeout)
        except TimeoutError as error:
            raise OperationError(f"{error}; see {self.log}") from error
        if (problem := (self._booted() or {"problem": "the supervisor ended"})["problem"]) is not None:
            raise OperationError(f"node {self.instance_id}: {problem}; the end of {self.log}:\n{self._process.tail()}")

    def stop(self) -> None:
        """Shut the node down and stop its instance, so that SSM no longer finds it by its tag. The disk stays."""
        self._process.stop(STOP_SECONDS)
        self._kill_remaining_processes()
        if (self.home / "node.json").exists():
            self._set_running(False)

    def kill(self) -> None:
        """Kill every process of the node without telling EC2, as when a node hangs."""
        self._process.kill()
        self._kill_remaining_processes()

    def remove(self) -> None:
        """Terminate the instance and delete the disk; needs no local AWS if `env` is empty."""
        self.kill()
        if self._env and (self.home / "node.json").exists():
            # The local AWS is down, or has restarted since the launch: there is no instance to terminate.
            with contextlib.suppress(BotoCoreError, ClientError):
                local_client(self._env, "ec2").terminate_instances(InstanceIds=[self.instance_id])
        shutil.rmtree(self.home, ignore_errors=True)

    def _launch(self) -> None:
        size = len(self._user_data.encode())
        if size > USER_DATA_LIMIT:
            raise UserError(f"the user data has {size} bytes; EC2 takes at most {USER_DATA_LIMIT}")
        ec2 = local_client(self._env, "ec2")
        image = ec2.register_image(Name=f"local-node-{os.urandom(4).hex()}", RootDeviceName="/dev/xvda")["ImageId"]
        tags = [{"Key": key, "Value": value} for key, value in self._tags.items()]
        launched = ec2.run_instances(
            ImageId=image,
            InstanceType=self._machine.instance_type,
            MinCount=1,
            MaxCount=1,
            UserData=self._user_data,
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}] if tags else [],
        )
        self.attach(launched["Instances"][0]["InstanceId"])

    def attach(self, instance_id: str) -> None:
        """Become the machine of an existing instance, instead of launching one at the first start."""
        description = {**asdict(self._machine), "instance_id": instance_id}
        write_atomically(self.home / "node.json", json.dumps(description, indent=2) + "\n")

    def _set_running(self, running: bool) -> None:
        ec2 = local_client(self._env, "ec2")
        try:
            (ec2.start_instances if running else ec2.stop_instances)(InstanceIds=[self.instance_id])
        except (BotoCoreError, ClientError) as error:
            if running:
                raise OperationError(
                    f"EC2 cannot start {self.instance_id}: {error}. A restart of the local AWS loses its instances: "
                    f"remove the node ({self.home.name}) and add it again"
                ) from error

    def _environment(self) -> dict[str, str]:
        keep = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ}
        return {
            **keep,
            **self._env,
            "PATH": f"{self.home / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.root / "root"),
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONUNBUFFERED": "1",
            ROOT_VARIABLE: str(self.root),
        }

    def _booted(self) -> dict[str, str | None] | None:
        try:
            boot: dict[str, str | None] = json.loads((self.home / "boot.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return boot

    def _kill_remaining_processes(self) -> None:
        """Kill processes that outlived a killed supervisor."""
        while remaining := [process for process in psutil.process_iter() if self._is_ours(process)]:
            for process in remaining:
                process.kill()
            psutil.wait_procs(remaining, timeout=STOP_SECONDS)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            running: bool = process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
            return running and process.environ().get(ROOT_VARIABLE) == str(self.root)
        except (psutil.Error, OSError):
            return False


def shell_parts(user_data: str) -> list[str]:
    """The scripts of MIME user data, in order. Raises OperationError for other text, which Karpenter may misread."""
    message = email.message_from_string(user_data, policy=email.policy.default)
    if not message.is_multipart():
        raise OperationError("the user data is not MIME multipart")
    parts = [part for part in message.walk() if part.get_content_type() == "text/x-shellscript"]
    return [str(part.get_content()) for part in parts if isinstance(part, EmailMessage)]


class Supervisor:
    """Everything that happens on one node between power on and power off."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._root = home / "root"
        self._machine = _machine(home)
        # The node's own disk, independent of the disk of this machine.
        self._environment = {**os.environ, "COMFYUI_NODE_DISK_BYTES": str(_machine(home).disk_bytes)}

    async def run(self) -> None:
        power_off = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, power_off.set)
        self._power_on()
        systemd = Systemd(self._root, self._environment, self._home / "log")
        self._environment[CONTROL] = await systemd.serve()
        tasks = [
            asyncio.create_task(self._logged(self._boot(systemd))),
            asyncio.create_task(self._agent().run()),
            asyncio.create_task(power_off.wait()),
        ]
        done, _ = await asyncio.wait([tasks[1], tasks[2]], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await systemd.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    def _power_on(self) -> None:
        """Prepare what cloud-init finds: an empty /run, no array yet, the disks of the instance type."""
        shutil.rmtree(self._root / "run", ignore_errors=True)
        shutil.rmtree(self._root / "sys", ignore_errors=True)
        for folder in SYSTEM_FOLDERS:
            (self._root / folder).mkdir(parents=True, exist_ok=True)
        self._mount([])
        for number in range(self._machine.local_disks + 1):
            model = "Amazon EC2 NVMe Instance Storage" if number else "Amazon Elastic Block Store"
            device = self._root / f"sys/block/nvme{number}n1/device"
            device.mkdir(parents=True)
            (device / "model").write_text(f"{model:<40}\n")
        tools = self._home / "bin"
        tools.mkdir(exist_ok=True)
        python = shlex.quote(sys.executable)
        for name, module in {"aws": "awscli", "systemctl": "comfyeks_local.node.systemd"}.items():
            (tools / name).write_text(f'#!/bin/sh\nexec {python} -m {module} "$@"\n')
            (tools / name).chmod(0o755)
        (tools / "python3").unlink(missing_ok=True)
        (tools / "python3").symlink_to(self._machine.python)

    def _mount(self, mount_points: list[str]) -> None:
        mounts = enumerate(["/", *mount_points], start=20)
        lines = [f"{number} 1 9:{number} / {point} rw,noatime - xfs /dev/md127 rw\n" for number, point in mounts]
        (self._root / "proc/self/mountinfo").write_text("".join(lines))

    async def _logged(self, work: Coroutine[Any, Any, None]) -> None:
        """Log an error instead of raising it: a node that cannot join stays up, as a real one does."""
        try:
            await work
        except OperationError as error:
            self._log(str(error))

    async def _boot(self, systemd: Systemd) -> None:
        """Run enabled units, cloud-init and nodeadm, in the order of the EKS image."""
        problem: str | None = None
        try:
            systemd.boot()
            await self._cloud_init()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        self._log(problem or "user data done")
        write_atomically(self._home / "boot.json", json.dumps({"problem": problem}))
        systemd.nodeadm_finished()
        await asyncio.sleep(self._machine.array_delay)
        if self._machine.local_disks:
            (self._root / ARRAY.lstrip("/")).mkdir(parents=True, exist_ok=True)
            self._mount([ARRAY])
        if (self._home / "kubelet.json").exists():
            await self._run_kubelet()

    async def _run_kubelet(self) -> None:
        """Do nodeadm's work: read the NodeConfig documents of the user data, then keep kubelet running."""
        from comfyeks_local.node import node_config  # loads the Kubernetes client: only for a node of a cluster

        config = node_config.read(await asyncio.to_thread(self._user_data))
        if config is None:
            raise OperationError("nodeadm: no NodeConfig in the user data names a cluster to join")
        if not json.loads((self._home / "kubelet.json").read_text())["kubeconfig"]:
            raise OperationError("kubelet: Unauthorized: the role of this instance has no access entry in the cluster")
        write_atomically(self._home / "nodeadm.json", json.dumps(asdict(config), indent=2) + "\n")
        while True:
            kubelet = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "comfyeks_local.cluster.kubelet", self._home,
                env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr,
            )  # fmt: skip
            try:
                self._log(f"kubelet ended with exit code {await kubelet.wait()}; starting it again")
            finally:
                if kubelet.returncode is None:
                    kubelet.kill()
            await asyncio.sleep(KUBELET_RESTART_SECONDS)

    async def _cloud_init(self) -> None:
        """Run the scripts of the user data, once in the life of the instance.

        Raises OperationError if one of them fails.
        """
        data = self._root / "var/lib/cloud/data"
        data.mkdir(parents=True, exist_ok=True)
        (data / "instance-id").write_text(self._machine.instance_id + "\n")
        once = self._root / "var/lib/cloud/instances" / self._machine.instance_id
        if once.exists():
            return
        once.mkdir(parents=True)
        scripts = shell_parts(await asyncio.to_thread(self._user_data))
        if not scripts and not (self._home / "kubelet.json").exists():
            raise OperationError("the user data has no part of type text/x-shellscript")
        for number, text in enumerate(scripts, start=1):
            script = once / f"part-{number:03}"
            script.write_text(text)
            script.chmod(0o755)
            process = await asyncio.create_subprocess_exec(
                script, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr
            )
            if code := await process.wait():
                raise OperationError(f"part {number} of the user data ended with exit code {code}")

    def _user_data(self) -> str:
        answer = local_client(self._environment, "ec2").describe_instance_attribute(
            InstanceId=self._machine.instance_id, Attribute="userData"
        )
        raw = base64.b64decode(answer["UserData"].get("Value", ""))
        return (gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw).decode()

    def _agent(self) -> Agent:
        ssm = local_client(self._environment, "ssm")
        return Agent(
            self._environment["AWS_ENDPOINT_URL_SSM"],
            self._machine.instance_id,
            self._environment,
            lambda name: str(ssm.get_document(Name=name)["Content"]),
            self._log,
        )

    def _log(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _machine(home: Path) -> Machine:
    try:
        return Machine(**json.loads((home / "node.json").read_text()))
    except FileNotFoundError as error:
        raise OperationError(
            f"{home} is not a local node (no node.json): it was never started, or was removed"
        ) from error


if __name__ == "__main__":
    asyncio.run(Supervisor(Path(sys.argv[1])).run())
