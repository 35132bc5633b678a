"""Every name in AWS is a property of Deployment: no other module builds one from the deployment's name."""

import re

from comfyeks.deployment import BUCKET_KINDS, Deployment
from comfyeks.paths import REPO_ROOT

DEPLOYMENT = Deployment("film", "us-west-2", "111122223333")
# A deployment's name or stage, then a dash and a word: "{deployment.name}-images", "comfyui-models-{deployment.stage}".
BUILT = re.compile(r"deployment\.name\}-[a-z]|target\.name\}-[a-z]|place\.name\}-[a-z]|deployment\.stage\}-")
HOME = REPO_ROOT / "src/comfyeks/deployment.py"
FILES = [path for top in ("src", "local/src") for path in (REPO_ROOT / top).rglob("*.py") if path != HOME]


def test_no_module_but_deployment_builds_a_name() -> None:
    assert len(FILES) > 100
    built = {
        f"{path.relative_to(REPO_ROOT)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if BUILT.search(line)
    }
    assert built == set()


def test_a_name_that_is_built_by_hand_would_be_found() -> None:
    for line in (
        'f"{deployment.name}-images"',
        'f"build {work.deployment.name}-images:{tag}"',
        'f"/aws/lambda/comfyui-models-{deployment.stage}-"',
    ):
        assert BUILT.search(line)
    assert not BUILT.search('f"{deployment.name} in account"')


def test_every_name_carries_the_project_and_fits_63_characters() -> None:
    values = [getattr(DEPLOYMENT, name) for name in vars(Deployment) if isinstance(getattr(Deployment, name), property)]
    names = [value for value in values if isinstance(value, str)] + [DEPLOYMENT.bucket(kind) for kind in BUCKET_KINDS]
    assert len(names) > 10
    for name in names:
        assert "film" in name
        assert len(name) <= 63
