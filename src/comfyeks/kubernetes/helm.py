"""Helm releases: their pending changes, install or upgrade, and uninstall."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from comfyeks import tools
from comfyeks.console import note
from comfyeks.errors import OperationError, UserError
from comfyeks.kubernetes.api import Api, Cluster, condition
from comfyeks.paths import REPO_ROOT

WAIT = ("--wait", "--timeout", "10m")
# Longer than the wait above: a change that began earlier is no longer running.
ABANDONED_AFTER = timedelta(minutes=15)


@dataclass(frozen=True)
class Release:
    """A release as it should be. `chart` is a folder of this project, a name in `repository`, or an OCI address."""

    name: str
    namespace: str
    chart: str
    version: str | None = None
    repository: str | None = None
    values: tuple[Path, ...] = ()
    sets: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    wait: bool = True

    def argv(self) -> list[str]:
        """Return `helm upgrade --install …`, to be run in the checkout's top folder."""
        argv = ["helm", "upgrade", "--install", self.name, self.chart]
        if self.repository:
            argv += ["--repo", self.repository]
        if self.version:
            argv += ["--version", self.version]
        argv += ["--namespace", self.namespace, *self.flags]
        for path in self.values:
            argv += ["--values", str(path.relative_to(REPO_ROOT) if path.is_relative_to(REPO_ROOT) else path)]
        for setting in self.sets:
            argv += ["--set-string", setting]
        return argv


class Helm:
    """helm on one kubectl context, with its output in `log`. Methods raise OperationError with helm's message."""

    def __init__(self, context: str, log: Path, pass_fds: Sequence[int] = ()) -> None:
        self._context = context
        self._log = log
        self._pass_fds = tuple(pass_fds)

    def pending_change(self, release: Release) -> str | None:
        """Describe what an upgrade would do; None if the release is up to date."""
        installed = self._installed(release)
        if installed is None:
            return "install"
        if installed["status"] != "deployed":
            return f"upgrade: it is {installed['status']}"
        if release.version and not installed["chart"].endswith(f"-{release.version}"):
            return f"upgrade {installed['chart']} to {release.version}"
        if release.version:
            wanted: dict[str, Any] = {}
            for path in release.values:
                wanted = _merge(wanted, yaml.safe_load(path.read_text()) or {})
            found = self._read("get", "values", release.name, "--namespace", release.namespace, "--output", "json")
            return None if (json.loads(found) or {}) == wanted else "upgrade: other values"
        # A chart of this project changes without a new version: compare the rendered objects.
        dry = [*release.argv()[1:], "--dry-run=server", "--output", "json"]
        manifest = json.loads(self._read(*dry))["manifest"]
        found = self._read("get", "manifest", release.name, "--namespace", release.namespace)
        return None if _objects(manifest) == _objects(found) else "upgrade: chart or values changed"

    def upgrade(self, release: Release) -> None:
        """Install or upgrade, and wait until the release is ready. An interrupted change is rolled back first.

        Raises UserError while somebody else changes the release.
        """
        self._recover(release)
        self._restart_failed_rollouts(release)
        self._write(release, *release.argv()[1:], *(WAIT if release.wait else ()))

    def uninstall(self, release: Release) -> bool:
        """Uninstall a release and wait for its end; return whether it was installed."""
        if self._installed(release) is None:
            return False
        self._write(release, "uninstall", release.name, "--namespace", release.namespace, *WAIT)
        return True

    def installed(self, release: Release) -> bool:
        return self._installed(release) is not None

    def _installed(self, release: Release) -> dict[str, Any] | None:
        arguments = ("--namespace", release.namespace, *_ALL, "--filter", f"^{release.name}$", "--output", "json")
        listed = json.loads(self._read("list", *arguments))
        return dict(listed[0]) if listed else None

    def _recover(self, release: Release) -> None:
        """Roll back the change of a killed helm, because its release refuses every other change."""
        installed = self._installed(release)
        if installed is None or not installed["status"].startswith("pending"):
            return
        since = datetime.fromisoformat(_seconds(installed["updated"]))
        if not self._marker(release).exists() and datetime.now(UTC) - since < ABANDONED_AFTER:
            raise UserError(
                f"another process has been changing release {release.name} since {since:%H:%M:%S} UTC "
                f"({installed['status']}): wait until it ends; after {since + ABANDONED_AFTER:%H:%M} UTC it counts as "
                "abandoned, and the same command rolls it back"
            )
        note(f"{release.name}: an earlier run was interrupted ({installed['status']}); rolling it back first")
        verb = "uninstall" if installed["status"] == "pending-install" else "rollback"
        self._write(release, verb, release.name, "--namespace", release.namespace, *WAIT)

    def _restart_failed_rollouts(self, release: Release) -> None:
        """Restart the Deployments of a release whose rollout took too long.

        Helm reports such a rollout as failed at once and does not wait for it, although its cause (a missing role or
        node group) may be fixed by now.
        """
        if (self._installed(release) or {}).get("status") != "failed":
            return
        api = Api(Cluster(self._context))
        for workload in api.list("Deployment", release.namespace):
            metadata = workload["metadata"]
            ours = metadata.get("annotations", {}).get("meta.helm.sh/release-name") == release.name
            if ours and condition(workload, "Progressing").get("reason") == "ProgressDeadlineExceeded":
                note(f"{release.name}: the rollout of {metadata['name']} took too long before; restarting it")
                # What `kubectl rollout restart` does.
                now = {"kubectl.kubernetes.io/restartedAt": datetime.now(UTC).isoformat(timespec="seconds")}
                template = {"spec": {"template": {"metadata": {"annotations": now}}}}
                api.patch("Deployment", release.namespace, metadata["name"], template)

    def _marker(self, release: Release) -> Path:
        """Return the file that exists while a helm of this checkout runs, and after it was killed."""
        return self._log.parent / f"helm-{release.namespace}-{release.name}.running"

    def _write(self, release: Release, *arguments: str) -> None:
        marker = self._marker(release)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        self._read(*arguments)
        marker.unlink()

    def _read(self, *arguments: str) -> str:
        done = tools.run_helm(*arguments, "--kube-context", self._context, folder=REPO_ROOT, pass_fds=self._pass_fds)
        with self._log.open("a") as log:
            log.write(f"$ helm {shlex.join(arguments)}\n{done.stderr}\n")
        if done.returncode:
            message = " ".join((done.stderr.strip() or done.stdout.strip()).split())
            raise OperationError(f"`helm {shlex.join(arguments[:3])}` failed: {message}; full log: {self._log}")
        return done.stdout


_ALL = ("--deployed", "--failed", "--pending", "--uninstalling")


def _seconds(text: str) -> str:
    """Convert helm's `2026-11-21 10:20:30.123456789 +0000 UTC` to `2026-11-21 10:20:30+0000`, which Python reads."""
    date, time, zone = text.split()[:3]
    return f"{date} {time.partition('.')[0]}{zone}"


def _objects(manifest: str) -> list[Any]:
    return [item for item in yaml.safe_load_all(manifest) if item]


def _merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Merge values as helm merges files: maps key by key, everything else replaced."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
