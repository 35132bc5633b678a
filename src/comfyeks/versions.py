"""The pins of the project, read from versions.yaml."""

from typing import Any

import yaml

from comfyeks.paths import REPO_ROOT

VERSIONS: dict[str, Any] = yaml.safe_load((REPO_ROOT / "versions.yaml").read_text())
