"""Helm releases: what is installed, whether it is what we would install, and how to get there and back."""

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
# Longer than the wait: whoever began a change before has given it up.
ABANDONED = timedelta(minutes=15)


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
        """`helm upgrade --install …`, to be run in the checkout's top folder."""
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
    """helm on one kubectl context. `log` gets what it prints. Methods raise OperationError with helm's own words."""

    def __init__(self, context: str, log: Path, pass_fds: Sequence[int] = ()) -> None:
        self._context = context
        self._log = log
        self._pass_fds = tuple(pass_fds)

    def left(self, release: Release) -> str | None:
        """What an upgrade would do, in words; None when the release is as it should be."""
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
        # A chart of this project changes without a new version: what it renders to is compared.
        dry = [*release.argv()[1:], "--dry-run=server", "--output", "json"]
        manifest = json.loads(self._read(*dry))["manifest"]
        found = self._read("get", "manifest", release.name, "--namespace", release.namespace)
        return None if _objects(manifest) == _objects(found) else "upgrade: chart or values changed"

    def upgrade(self, release: Release) -> None:
        """Install or upgrade, and wait until it is ready. Picks up what a killed helm left behind."""
        self._recover(release)
        self._begin_rollouts_again(release)
        self._write(release, *release.argv()[1:], *(WAIT if release.wait else ()))

    def uninstall(self, release: Release) -> bool:
        """Remove a release and wait for it; whether there was one."""
        if self._installed(release) is None:
            return False
        self._write(release, "uninstall", release.name, "--namespace", release.namespace, *WAIT)
        return True

    def installed(self, release: Release) -> bool:
        return self._installed(release) is not None

    def _installed(self, release: Release) -> dict[str, Any] | None:
        words = ("--namespace", release.namespace, *_ALL, "--filter", f"^{release.name}$", "--output", "json")
        listed = json.loads(self._read("list", *words))
        return dict(listed[0]) if listed else None

    def _recover(self, release: Release) -> None:
        """A helm that was killed leaves a release that refuses every change; take that change back."""
        installed = self._installed(release)
        if installed is None or not installed["status"].startswith("pending"):
            return
        since = datetime.fromisoformat(_seconds(installed["updated"]))
        if not self._mark(release).exists() and datetime.now(UTC) - since < ABANDONED:
            raise UserError(
                f"somebody is changing release {release.name} since {since:%H:%M:%S} UTC ({installed['status']}): wait "
                f"for the end, or until {since + ABANDONED:%H:%M} UTC, when it counts as given up"
            )
        note(f"{release.name}: an earlier run was ended half-way ({installed['status']}); it is taken back first")
        verb = "uninstall" if installed["status"] == "pending-install" else "rollback"
        self._write(release, verb, release.name, "--namespace", release.namespace, *WAIT)

    def _begin_rollouts_again(self, release: Release) -> None:
        """Restart the Deployments of a release whose rollout took too long.

        Helm takes such a one for failed at its first look and waits no further, although what kept it (a role, a node
        group) may be mended by now.
        """
        if (self._installed(release) or {}).get("status") != "failed":
            return
        api = Api(Cluster(self._context))
        for deployment in api.list("Deployment", release.namespace):
            metadata = deployment["metadata"]
            ours = metadata.get("annotations", {}).get("meta.helm.sh/release-name") == release.name
            if ours and condition(deployment, "Progressing").get("reason") == "ProgressDeadlineExceeded":
                note(f"{release.name}: the rollout of {metadata['name']} took too long before; it begins again")
                # What `kubectl rollout restart` does.
                now = {"kubectl.kubernetes.io/restartedAt": datetime.now(UTC).isoformat(timespec="seconds")}
                template = {"spec": {"template": {"metadata": {"annotations": now}}}}
                api.patch("Deployment", release.namespace, metadata["name"], template)

    def _mark(self, release: Release) -> Path:
        """Exists while a helm that this checkout started is at work, or was killed."""
        return self._log.parent / f"helm-{release.namespace}-{release.name}.running"

    def _write(self, release: Release, *words: str) -> None:
        mark = self._mark(release)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        self._read(*words)
        mark.unlink()

    def _read(self, *words: str) -> str:
        done = tools.run_helm(*words, "--kube-context", self._context, folder=REPO_ROOT, pass_fds=self._pass_fds)
        with self._log.open("a") as log:
            log.write(f"$ helm {shlex.join(words)}\n{done.stderr}\n")
        if done.returncode:
            said = " ".join((done.stderr.strip() or done.stdout.strip()).split())
            raise OperationError(f"`helm {shlex.join(words[:3])}` failed: {said}")
        return done.stdout


_ALL = ("--deployed", "--failed", "--pending", "--uninstalling")


def _seconds(text: str) -> str:
    """helm writes `2026-11-21 10:20:30.123456789 +0000 UTC`; Python reads `2026-11-21 10:20:30+0000`."""
    date, time, zone = text.split()[:3]
    return f"{date} {time.partition('.')[0]}{zone}"


def _objects(manifest: str) -> list[Any]:
    return [item for item in yaml.safe_load_all(manifest) if item]


def _merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Values as helm merges files: maps key by key, everything else replaced."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
