"""A person uses the page: opens an example workflow, presses Run and sees the picture, which is then in the bucket.

The page is ComfyUI's real front end, the pod that of the chart (with the stand-in for ComfyUI), the bucket in the local
AWS.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from comfyeks.charts.render import render
from comfyeks.paths import REPO_ROOT, STATE
from comfyeks_local.comfyui.frontend import static_files
from comfyeks_local.emulators.local_aws import LocalAws
from comfyeks_local.node.pod import LocalPod
from comfyeks_local.processes import wait_until
from tests.support.comfyui import CHECKPOINT
from tests.support.safetensors import write_model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WORKFLOW = REPO_ROOT / "workflows" / "sdxl-text-to-image.json"
SCREENSHOT = STATE / "local" / "page.png"
SAVE_NODE = "window.app.graph.nodes.find(node => node.type === 'SaveImage')"
BUCKETS = ("page-inputs", "page-outputs")

pytestmark = [
    pytest.mark.local,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium"),
]


def test_the_page_has_the_version_of_the_image() -> None:
    lock = (REPO_ROOT / "image" / "requirements" / "comfyui.lock").read_text()
    wanted = re.search(r"^comfyui-frontend-package==(\S+)", lock, re.MULTILINE)
    assert wanted is not None
    assert f'"comfyui-frontend-package=={wanted[1]}"' in (REPO_ROOT / "pyproject.toml").read_text()
    assert static_files() is not None


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalAws]:
    with LocalAws(tmp_path / "aws") as running:
        for key, value in running.env().items():
            monkeypatch.setenv(key, value)
        for bucket in BUCKETS:
            boto3.client("s3", region_name="us-west-2").create_bucket(
                Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
            )
        yield running


@pytest.fixture
def pod(aws: LocalAws, tmp_path: Path) -> Iterator[LocalPod]:
    """A pod of the chart, on a node that has the example's model."""
    models = tmp_path / "models"
    write_model(models, f"checkpoints/{CHECKPOINT}")
    values = {
        "image": {"repository": "example.com/comfyui"},
        "aws": {"region": "us-west-2"},
        "inputs": {"bucket": BUCKETS[0]},
        "outputs": {"bucket": BUCKETS[1]},
        "models": {"gate": "keys", "keys": [f"checkpoints/{CHECKPOINT}"]},
    }
    running = LocalPod.of_chart(tmp_path / "pod", render("comfyui", values=values), models, aws.env())
    running.start()
    yield running
    running.stop()


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page(viewport={"width": 1600, "height": 1000})
        browser.close()


def stored() -> dict[str, bytes]:
    s3 = boto3.client("s3", region_name="us-west-2")
    listed = s3.list_objects_v2(Bucket=BUCKETS[1]).get("Contents", [])
    return {item["Key"]: s3.get_object(Bucket=BUCKETS[1], Key=item["Key"])["Body"].read() for item in listed}


def open_file(page: Page, path: Path) -> None:
    """Press Ctrl+O until the dialog opens: the page accepts keys only some time after it appears."""
    for _ in range(30):
        try:
            with page.expect_file_chooser(timeout=3000) as chooser:
                page.keyboard.press("Control+o")
        except PlaywrightTimeout:
            continue
        chooser.value.set_files(path)
        return
    raise AssertionError("Ctrl+O opens no file dialog")


def test_a_person_runs_an_example_and_sees_its_picture(
    pod: LocalPod, page: Page, measured: Callable[[str], None], tmp_path: Path
) -> None:
    page.set_default_timeout(120_000)
    page.goto(pod.url)
    page.wait_for_selector("canvas#graph-canvas")
    run = page.get_by_test_id("queue-button")
    run.wait_for()

    open_file(page, WORKFLOW)
    page.get_by_text(WORKFLOW.stem).first.wait_for()
    # The page shows its graph nodes, by their titles.
    titles = {node["_meta"]["title"] for node in json.loads(WORKFLOW.read_text()).values()}
    assert set(page.evaluate("window.app.graph.nodes.map(node => node.title)")) == titles

    # The page loads a picture when its graph node becomes visible.
    page.evaluate(f"window.app.canvas.setZoom(0.5), window.app.canvas.centerOnNode({SAVE_NODE})")
    run.click()
    shown = page.wait_for_function(f"() => {SAVE_NODE}?.imgs?.find(image => image.naturalWidth)?.src").json_value()
    size = page.evaluate(f"{SAVE_NODE}.imgs[0].naturalWidth")
    assert shown.startswith(f"{pod.url}/api/view?")
    assert size == 1024
    SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOT)

    wait_until("the picture in the outputs bucket", lambda: bool(stored()), 60)
    [(key, content)] = stored().items()
    assert content == page.request.get(shown).body()
    (tmp_path / "picture.png").write_bytes(content)
    assert Image.open(tmp_path / "picture.png").size == (1024, 1024)
    measured(f"the page showed the picture that is at s3://{BUCKETS[1]}/{key}; screenshot: {SCREENSHOT}")
