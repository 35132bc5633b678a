"""`comfyeks up` and `down` on the local AWS and a real API server: from nothing, killed at five points, and back.

In between `status`, and `doctor` with the faults of tests/support/doctor_faults.py. A quarter of an hour of two cores:
only with COMFYEKS_TEST_UP=1 (docs/local.md).
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from comfyeks.image import build as image_build
from comfyeks_local.emulators.local_aws import LocalAws
from tests.support.chart_mirror import make_chart_mirror
from tests.support.clones import Clone, make_clone, plain_environment
from tests.support.doctor_faults import FAULTS, Target

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.xdist_group("up"),
    pytest.mark.timeout(5400),
    pytest.mark.skipif(
        os.environ.get("COMFYEKS_TEST_UP") != "1", reason="a quarter of an hour; COMFYEKS_TEST_UP=1 runs it"
    ),
]
NAME = "comfyui-try"
# Step in which `up` is killed, and within how many of its seconds. Steps before it were done by the runs before.
KILLED = (("aws", 30), ("aws", 60), ("add-ons", 5), ("charts", 2), ("events", 3))
# What this machine does not have.
LACKING = {"the Pod Identity agent is not installed", "the Mountpoint for S3 CSI driver: not in the cluster"}
STEP = re.compile(r"✓ \d+/\d+  (\S.*?\S) +(done|nothing to do)  \(([\d.]+) s\)")


@dataclass
class Place:
    """A clone with a local AWS and a local cluster."""

    clone: Clone
    aws: LocalAws
    folder: Path

    def doctor(self, clone: Clone | None = None) -> list[dict[str, str]]:
        """The findings of the doctor that are errors or warnings."""
        answer = (clone or self.clone).comfyeks("doctor", "--json", check=False)
        return [finding for finding in json.loads(answer.stdout) if finding["severity"] != "ok"]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.clone.comfyeks(*arguments, check=False)

    def steps(self, *arguments: str) -> dict[str, str]:
        """Step → "done" or "nothing to do" of a run that succeeds; prints the seconds of each."""
        answer = self.run(*arguments)
        assert answer.returncode == 0, answer.stderr[-4000:]
        found = STEP.findall(answer.stderr)
        print(f"\ncomfyeks {' '.join(arguments)}")
        for name, did, seconds in found:
            print(f"  {name:<12} {seconds:>7} s  {did}")
        return {name: did for name, did, _ in found}

    def push_image(self) -> bool:
        """Push the image that CodeBuild, which is emulated here, does not build; false while there is no repository."""
        if not self.image_repository_is_there():
            return False
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
        self.aws.client("ecr").put_image(
            repositoryName=f"{NAME}-images", imageTag=image_build.tag(), imageManifest=json.dumps(manifest)
        )
        return True

    def image_repository_is_there(self) -> bool:
        ecr = self.aws.client("ecr")
        try:
            ecr.describe_repositories(repositoryNames=[f"{NAME}-images"])
        except ecr.exceptions.RepositoryNotFoundException:
            return False
        return True


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("up")
    clone = make_clone(folder / "clone", plain_environment())
    clone.comfyeks("local", "up", "--cluster")
    try:
        aws = LocalAws(clone.root / ".comfyeks" / "local")
        config = yaml.safe_load((clone.root / ".comfyeks/local/cluster/kubeconfig").read_text())
        config["clusters"][0]["name"] = config["contexts"][0]["context"]["cluster"] = NAME
        kubeconfig = folder / "kubeconfig"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(yaml.safe_dump(config))
        clone.env = {
            **aws.environment(clone.env),
            "KUBECONFIG": str(kubeconfig),
            "COMFYEKS_CHART_MIRROR": str(make_chart_mirror(folder / "charts", config["clusters"][0]["cluster"])),
            "COMFYEKS_PROJECT": "try",
            "COMFYEKS_API_ALLOWED_CIDRS": "198.51.100.7/32",
        }
        yield Place(clone, aws, folder)
    finally:
        clone.comfyeks("local", "down")


def errors(findings: list[dict[str, str]]) -> set[str]:
    return {finding["message"] for finding in findings if finding["severity"] == "error"}


def faults_that_are_missed(place: Place) -> list[str]:
    """Create each fault, run the doctor until it names it with a fix, and undo it; prints the findings."""
    target = Target(place.clone, place.aws, NAME, place.folder)
    missed = []
    for fault in FAULTS:
        begun = time.monotonic()
        with fault.seed(target) as clone:
            found = None
            while found is None and time.monotonic() - begun < 180:  # a controller takes some time to report it
                found = next(
                    (f for f in place.doctor(clone) if f["check"] == fault.check and fault.message in f["message"]),
                    None,
                )
        if found is None or not found["fix"]:
            missed.append(fault.name)
            print(f"\n✗ {fault.name}: {found}")
        else:
            print(f"\n✓ {fault.name} ({time.monotonic() - begun:.1f} s)\n  {found['message']}\n  → {found['fix']}")
    assert len(FAULTS) >= 12
    return missed


def test_up_killed_at_five_points_up_again_status_doctor_down_and_down_again(place: Place) -> None:
    rng = random.Random(20261121)
    pushed = False
    for number, (step, within) in enumerate(KILLED, start=1):
        delay = rng.uniform(0, within)
        log = place.clone.root / f"killed-{number}.log"
        with log.open("w") as output:
            argv = place.clone.argv("up")
            process = subprocess.Popen(argv, cwd=place.clone.root, env=place.clone.env, stderr=output)
            while process.poll() is None and not re.search(rf"▸ \d+/\d+  {step} ", log.read_text()):
                time.sleep(0.2)
                pushed = pushed or place.push_image()
            until = time.monotonic() + delay
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.2)
                pushed = pushed or place.push_image()
            assert process.poll() is None, f"it ended before it was killed in {step}: {log.read_text()[-4000:]}"
            process.kill()
            process.wait(timeout=300)
        lines = log.read_text().strip().splitlines()
        print(f"\nkill {number}: {delay:.1f} s into {step}; last: {lines[-1]}")
        log.unlink()

    place.steps("up")
    again = place.steps("up")
    assert set(again.values()) - {"nothing to do"} == {"done"}  # the checks, and the address
    assert [name for name, did in again.items() if did == "done"] == ["preflight", "address"]

    status = json.loads(place.run("status", "--json").stdout)
    assert [pod["state"] for pod in status["pods"]] == ["ready"]
    assert len(status["nodes"]) == 1
    assert errors(place.doctor()) <= LACKING
    assert faults_that_are_missed(place) == []
    until = time.monotonic() + 300  # Karpenter works again some time after its pod is ready
    while not (found := errors(place.doctor())) <= LACKING:
        assert time.monotonic() < until, found
        time.sleep(2)

    place.steps("down", "--confirm", NAME)
    again = place.steps("down", "--confirm", NAME)
    assert [name for name, did in again.items() if did == "done"] == ["verify"]
    assert place.clone.changes() == ""
