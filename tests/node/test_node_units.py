"""The unit files: systemd accepts them, and they say what the node program relies on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from comfyeks.paths import REPO_ROOT
from comfyeks_local.node.systemd import NODEADM, Unit, time_span

NODE = REPO_ROOT / "node"
SERVICE, TIMER, PATH = (f"comfyui-model-sync.{kind}" for kind in ("service", "timer", "path"))

# What a unit of the host refers to, as far as `systemd-analyze verify` looks for it.
HOST_UNITS = {
    "sysinit.target": "", "basic.target": "", "shutdown.target": "", "timers.target": "", "paths.target": "",
    "network-online.target": "", "local-fs.target": "", "time-sync.target": "", "time-set.target": "",
    "system.slice": "[Slice]", "-.slice": "[Slice]", "-.mount": "[Mount]\nWhat=/dev/root\nWhere=/",
    "tmp.mount": "[Mount]\nWhat=tmpfs\nWhere=/tmp", NODEADM: "[Service]\nType=oneshot\nExecStart=/usr/bin/nodeadm",
}  # fmt: skip


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        if "systemd-analyze" in os.environ.get("REQUIRE_TOOLS", "").split(","):
            pytest.fail("REQUIRE_TOOLS names systemd-analyze, which is not here")
        pytest.skip("no systemd-analyze on this machine (package systemd): the units are only parsed by our own reader")
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for name, text in HOST_UNITS.items():
        (units / name).write_text(f"[Unit]\nDescription={name}\nDefaultDependencies=no\n{text}\n")
    for program in ("usr/local/bin/comfyui-model-sync", "usr/bin/nodeadm"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    for name in (SERVICE, TIMER, PATH):
        shutil.copy(NODE / name, units)
    result = subprocess.run(
        [analyze, "verify", f"--root={tmp_path}", "--man=no", SERVICE, TIMER, PATH], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_sync_comes_after_nodeadm_and_nothing_waits_for_the_sync() -> None:
    service = Unit.load(NODE, SERVICE)
    assert NODEADM in service.items("Unit", "After")
    assert service.items("Unit", "Before") == service.items("Unit", "RequiredBy") == []
    # A target waits for what it wants: multi-user.target would be reached only after hundreds of GB.
    assert service.items("Install", "WantedBy") == [NODEADM]


def test_a_burst_of_requests_never_makes_systemd_give_up() -> None:
    assert Unit.load(NODE, SERVICE).value("Unit", "StartLimitIntervalSec") == "0"


def test_a_failed_run_is_started_again_and_wrong_settings_are_not() -> None:
    service = Unit.load(NODE, SERVICE)
    assert service.value("Service", "Type") == "oneshot"
    assert service.value("Service", "Restart") == "on-failure"
    assert 0 < (service.seconds("Service", "RestartSec") or 0) <= 60
    assert service.items("Service", "RestartPreventExitStatus") == ["2"]


def test_a_long_first_sync_is_not_cut_off() -> None:
    assert Unit.load(NODE, SERVICE).value("Service", "TimeoutStartSec") == "infinity"


def test_the_path_unit_watches_the_programs_request_file() -> None:
    assert Unit.load(NODE, PATH).items("Path", "PathExists") == ["/run/comfyui-model-sync/requested"]
    assert '"/run/comfyui-model-sync/requested"' in (NODE / "comfyui-model-sync").read_text()


def test_the_timer_spreads_a_fleet() -> None:
    timer = Unit.load(NODE, TIMER)
    assert (timer.seconds("Timer", "RandomizedDelaySec") or 0) >= 60
    assert (timer.seconds("Timer", "OnUnitInactiveSec") or 0) <= 30 * 60


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("15min", 900), ("1h 30min", 5400), ("500ms", 0.5), ("infinity", float("inf"))]
)
def test_time_spans_are_read_as_systemd_does(text: str, seconds: float) -> None:
    assert time_span(text) == seconds
