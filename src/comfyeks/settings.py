"""Reads the settings file of a deployment, `.comfyeks/<name>/settings.yaml`.

`comfyeks init` writes it, `comfyeks infra apply` stores it with the deployment (comfyeks.terraform.settings_store),
flags and environment win over it. It contains no secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from comfyeks.errors import UserError

FILE = "settings.yaml"
_ACCOUNT = re.compile(r"\d{12}")
_TAG = re.compile(r"\w[\w.-]{0,127}")


@dataclass(frozen=True)
class DeploymentSettings:
    """The settings in the file, with the defaults of those that it does not have.

    `platform` and `data` are variables of the two Terraform roots; `comfyui` and `karpenter_gpu` are values of the
    charts, over the generated ones. `models` are models or groups of the catalogue. An empty `image_tag` means the tag
    of image/ in this checkout.
    """

    account: str | None = None
    region: str | None = None
    instance_type: str = "g5.2xlarge"
    image_tag: str = ""
    keda: bool = False
    models: tuple[str, ...] = ()
    platform: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    comfyui: dict[str, Any] = field(default_factory=dict)
    karpenter_gpu: dict[str, Any] = field(default_factory=dict)

    @property
    def release(self) -> str:
        """Helm release of charts/comfyui."""
        return str(self.platform.get("comfyui_release", "comfyui"))

    @property
    def namespace(self) -> str:
        """Namespace of that release."""
        return str(self.platform.get("comfyui_namespace", "comfyui"))

    def check(self, deployment: str, account: str, region: str, where: Path) -> None:
        """Raise UserError when the file is for another account or region."""
        for name, wanted, found in (("account", self.account, account), ("region", self.region, region)):
            if wanted is not None and wanted != found:
                remedy = {
                    "account": "use credentials of that account (AWS_PROFILE), or another --project",
                    "region": f"set AWS_REGION={wanted}, or use another --project",
                }[name]
                raise UserError(
                    f"{where} is for {name} {wanted}, but {deployment} was requested in {name} {found}: "
                    f"nothing was changed; {remedy}"
                )


def load(file: Path) -> DeploymentSettings:
    """Read the settings from a file; the defaults when there is none. Raises UserError naming an invalid setting."""
    if not file.exists():
        return DeploymentSettings()
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a mapping: expected settings such as `region: us-west-2` at the top level")
    known = {f.name.replace("_", "-"): f for f in fields(DeploymentSettings)}
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name not in known:
            raise UserError(f"{file}: there is no setting {name!r}; there are {', '.join(known)}")
        values[known[name].name] = _checked(file, name, value)
    return DeploymentSettings(**values)


def dump(settings: DeploymentSettings) -> dict[str, Any]:
    """The settings that differ from the defaults, as `load` reads them."""
    plain = DeploymentSettings()
    return {
        f.name.replace("_", "-"): list(value) if isinstance(value, tuple) else value
        for f in fields(settings)
        if (value := getattr(settings, f.name)) != getattr(plain, f.name)
    }


def _checked(file: Path, name: str, value: Any) -> Any:
    if name in ("platform", "data", "comfyui", "karpenter-gpu"):
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{file}: {name} must be NAME: VALUE lines, not {value!r}")
        return value
    if name == "keda":
        if not isinstance(value, bool):
            raise UserError(f"{file}: keda must be true or false, not {value!r}")
        return value
    if name == "models":
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise UserError(f"{file}: models must be a list of names, not {value!r}")
        return tuple(value)
    if name == "account" and not (isinstance(value, str) and _ACCOUNT.fullmatch(value)):
        raise UserError(f'{file}: account must be 12 digits in quotes, such as "111122223333", not {value!r}')
    if name == "image-tag" and value and not (isinstance(value, str) and _TAG.fullmatch(value)):
        raise UserError(f'{file}: image-tag must be a tag in quotes, such as "20261121", not {value!r}')
    if not isinstance(value, str):
        raise UserError(f"{file}: {name} must be a string, not {value!r}")
    return value
