"""Names of a deployment, and what is refused before anything is created."""

import pytest

from comfyeks.deployment import Deployment, project_name
from comfyeks.errors import UserError


def test_the_first_deployment_is_called_comfyui() -> None:
    first = Deployment(project=None, region="us-west-2", account="123456789012")
    assert first.name == "comfyui"
    assert first.stage == "default"
    assert first.bucket("models") == "comfyui-models-123456789012-us-west-2"
    assert first.dir.parts[-2:] == (".comfyeks", "comfyui")


def test_a_project_is_in_every_name() -> None:
    film = Deployment(project="film", region="eu-central-1", account="123456789012")
    assert film.name == "comfyui-film"
    assert film.stage == "film"
    assert film.sync_document == "comfyui-film-sync-models"
    assert film.sync_tag == ("ComfyUIModelSync", "comfyui-film")


@pytest.mark.parametrize("region", ["us-west-2", "ap-southeast-2", "us-gov-west-1"])
def test_the_longest_bucket_name_is_legal(region: str) -> None:
    longest = Deployment(project="x" * 16, region=region, account="1" * 12)
    assert len(longest.bucket("artifacts")) <= 63


def test_an_unknown_bucket_kind_is_a_bug_not_a_name() -> None:
    with pytest.raises(ValueError, match="no bucket kind"):
        Deployment(None, "us-west-2", "1").bucket("logs")


@pytest.mark.parametrize("name", ["a", "film", "film-2", "x" * 16, "0a"])
def test_a_legal_project_is_unchanged(name: str) -> None:
    assert project_name(name) == name


@pytest.mark.parametrize("name", ["default", "-film", "film-", "fi_lm", "x" * 17, "fílm", "a b"])
def test_an_illegal_project_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(UserError, match="1 to 16 of a-z"):
        project_name(name)


def test_capitals_are_lowered_with_a_notice(capsys: pytest.CaptureFixture[str]) -> None:
    assert project_name("Film") == "film"
    assert "lower case" in capsys.readouterr().err


def test_no_project_is_the_first_deployment() -> None:
    assert project_name("") is None
    assert project_name(None) is None
