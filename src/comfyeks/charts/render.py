"""Render a chart, for command line and tests: `helm template` of the whole chart, cached by inputs.

Never a single template: so an absent object is an ordinary result, and every refusal of the chart is seen.

Example:
    >>> [service] = render("comfyui", files=[Path("charts/comfyui/ci/minimal-values.yaml")]).of_kind("Service")
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from comfyeks import tools
from comfyeks.charts import CHARTS, CHARTS_ROOT
from comfyeks.errors import OperationError, UserError
from comfyeks.versions import VERSIONS

KubernetesObject = dict[str, Any]

# A chart renders in well under a second; something that takes this long hangs.
_TIMEOUT_SECONDS = 60


class RenderError(OperationError):
    """helm refused to render. `stderr` is its output, `values` its input."""

    def __init__(self, chart: str, stderr: str, values: Mapping[str, Any], files: Sequence[Path]):
        self.chart = chart
        self.stderr = stderr
        self.values = values
        inputs = [f"-f {file}" for file in files]
        if values:
            inputs.append("values:\n" + yaml.safe_dump(dict(values), sort_keys=False).rstrip())
        super().__init__("\n".join([f"chart {chart} does not render: {stderr.strip()}", *inputs]))


@dataclass(frozen=True)
class Rendered:
    """The objects of one render, in helm's order."""

    chart: str
    objects: tuple[KubernetesObject, ...]

    def __iter__(self) -> Iterator[KubernetesObject]:
        return iter(self.objects)

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def inventory(self) -> list[tuple[str, str]]:
        """(kind, name) of every object, sorted; a list, so that duplicates are visible."""
        return sorted((item["kind"], item["metadata"]["name"]) for item in self.objects)

    def of_kind(self, kind: str) -> list[KubernetesObject]:
        return [item for item in self.objects if item["kind"] == kind]

    def get(self, kind: str, name: str) -> KubernetesObject:
        """Return the one object of this kind and name.

        Raises:
            LookupError: there is none, or more than one; lists all objects.
        """
        found = [item for item in self.of_kind(kind) if item["metadata"]["name"] == name]
        if len(found) != 1:
            raise LookupError(f"chart {self.chart} has {len(found)} objects {kind}/{name}; it has {self.inventory}")
        return found[0]

    def to_yaml(self) -> str:
        return yaml.safe_dump_all(self.objects, sort_keys=False, allow_unicode=True)


def chart_path(chart: str) -> Path:
    if chart not in CHARTS:
        raise UserError(f"there is no chart {chart!r}: it is one of {', '.join(CHARTS)}")
    return CHARTS_ROOT / chart


def render(
    chart: str,
    values: Mapping[str, Any] | None = None,
    files: Sequence[Path] = (),
    release: str | None = None,
    namespace: str = "comfyui",
    kube_version: str | None = None,
    api_versions: Sequence[str] = (),
) -> Rendered:
    """Return the objects that `helm template` renders from a whole chart.

    Args:
        chart: "comfyui" or "karpenter-gpu".
        values: override everything in `files`.
        files: values files, later ones win.
        release: the chart's name unless given.
        kube_version: the version that the templates see, such as "1.36"; the platform's unless given. Never helm's own
            guess: an older helm takes every cluster for an older Kubernetes than the charts need.
        api_versions: what the templates find in `.Capabilities.APIVersions` beyond helm's own list.

    Raises:
        RenderError: a template or the schema refused; carries helm's stderr and the values.
    """
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(f"there is no values file {missing[0]}")
    objects = _render(
        chart,
        # Sorted, because the order of values has no meaning and must not create a second cache entry.
        json.dumps(values or {}, sort_keys=True),
        # With the content, because a test may write the same file twice.
        tuple((file, file.read_bytes()) for file in files),
        release or chart,
        namespace,
        kube_version or VERSIONS["kubernetes"],
        tuple(api_versions),
    )
    # A copy, because a test may change an object.
    return Rendered(chart, copy.deepcopy(objects))


@cache
def _render(
    chart: str,
    values: str,
    files: tuple[tuple[Path, bytes], ...],
    release: str,
    namespace: str,
    kube_version: str,
    api_versions: tuple[str, ...],
) -> tuple[KubernetesObject, ...]:
    paths = [path for path, _ in files]
    argv: list[str | Path] = ["template", release, chart_path(chart), "--namespace", namespace]
    for path in paths:
        argv += ["--values", path]
    argv += ["--values", "-", "--kube-version", kube_version]
    for version in api_versions:
        argv += ["--api-versions", version]
    done = helm(*argv, stdin=values)
    if done.returncode != 0:
        raise RenderError(chart, done.stderr, json.loads(values), paths)
    return tuple(item for item in yaml.load_all(done.stdout, Loader=YamlLoader) if item is not None)


def helm(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run helm without any cluster, even if this machine has access to one."""
    return tools.run_helm(*arguments, stdin=stdin, kubeconfig=Path(os.devnull), seconds=_TIMEOUT_SECONDS)


# PyYAML with libyaml reads a render ten times faster; not every build has it.
YamlLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
