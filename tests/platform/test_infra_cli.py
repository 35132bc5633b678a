"""`comfyeks infra destroy` always asks first."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from comfyeks.deployment import Deployment
from comfyeks.errors import UserError
from comfyeks.platform import cli
from tests.support.deployment import ACCOUNT, REGION


@pytest.fixture
def destroyed(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry per call of destroy: whether it included the data."""
    calls: list[bool] = []
    monkeypatch.setattr(cli, "current", lambda *_: deployment)
    monkeypatch.setattr(cli.platform_apply, "destroy", lambda *_, with_data: calls.append(with_data))
    return calls


@pytest.mark.parametrize("options", [[], ["--delete-data"]], ids=["platform", "data"])
def test_destroying_shows_account_region_and_name_and_asks_for_the_name(
    destroyed: list[bool], options: list[str]
) -> None:
    answer = CliRunner().invoke(cli.app, ["destroy", *options], input="comfyui\n")
    assert answer.exit_code == 0, answer.output
    assert all(name in answer.stderr for name in ("comfyui", ACCOUNT, REGION))
    assert ("every model" in answer.stderr) is bool(options)
    assert destroyed == [bool(options)]


@pytest.mark.parametrize("options", [[], ["--delete-data"]], ids=["platform", "data"])
@pytest.mark.parametrize(("given", "typed"), [([], "yes\n"), ([], ""), (["--confirm", "comfyui-film"], "")])
def test_without_the_name_nothing_is_destroyed(
    destroyed: list[bool], options: list[str], given: list[str], typed: str
) -> None:
    answer = CliRunner().invoke(cli.app, ["destroy", *options, *given], input=typed)
    assert isinstance(answer.exception, UserError)
    assert destroyed == []


def test_script_passes_the_name_as_an_option(destroyed: list[bool]) -> None:
    answer = CliRunner().invoke(cli.app, ["destroy", "--confirm", "comfyui"])
    assert answer.exit_code == 0, answer.output
    assert destroyed == [False]
