"""Where `terraform init` gets the provider from."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from comfyeks.errors import UserError
from comfyeks.terraform import provider_mirror


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An x86-64 Linux without a mirror in the usual places."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(provider_mirror, "USUAL_PLACES", ())


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a user with an empty home."""
    home = tmp_path / "home"
    home.mkdir()
    return {"HOME": str(home), "XDG_DATA_DIRS": str(tmp_path / "data")}


def unpack(mirror: Path, version: str = "5.100.0", target: str = "linux_amd64") -> Path:
    (mirror / "registry.terraform.io/hashicorp/aws" / version / target).mkdir(parents=True)
    return mirror


def configuration(env: dict[str, str]) -> str:
    return Path(env["TF_CLI_CONFIG_FILE"]).read_text()


def test_unpacked_mirror_below_a_usual_place_is_found_and_used(
    tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = unpack(tmp_path / "place" / "vendor" / "tf")
    monkeypatch.setattr(provider_mirror, "USUAL_PLACES", (str(tmp_path / "empty"), str(tmp_path / "place")))
    result = provider_mirror.environment(tmp_path / "state", env)
    assert f'path    = "{mirror}"' in configuration(result)
    assert 'exclude = ["registry.terraform.io/hashicorp/aws"]' in configuration(result)


def test_packed_mirror_is_accepted(tmp_path: Path) -> None:
    folder = tmp_path / "registry.terraform.io/hashicorp/aws"
    folder.mkdir(parents=True)
    (folder / "terraform-provider-aws_5.100.0_linux_amd64.zip").touch()
    assert provider_mirror.holds_provider(tmp_path)


@pytest.mark.parametrize(
    ("version", "target", "accepted"),
    [
        ("5.100.0", "linux_amd64", True),
        ("5.101.3", "linux_amd64", True),
        ("5.99.1", "linux_amd64", False),
        ("6.0.0", "linux_amd64", False),
        ("6.100.0", "linux_amd64", False),
        ("5.100.0", "darwin_arm64", False),
        ("latest", "linux_amd64", False),
    ],
)
def test_mirror_needs_an_accepted_version_for_this_machine(
    tmp_path: Path, version: str, target: str, accepted: bool
) -> None:
    assert provider_mirror.holds_provider(unpack(tmp_path, version, target)) is accepted


def test_mirror_named_in_the_environment_wins_over_the_users_own_configuration(
    tmp_path: Path, env: dict[str, str]
) -> None:
    mirror = unpack(tmp_path / "named")
    (Path(env["HOME"]) / ".terraformrc").write_text("# mine\n")
    result = provider_mirror.environment(tmp_path / "state", {**env, provider_mirror.MIRROR_VARIABLE: str(mirror)})
    assert str(mirror) in configuration(result)


def test_named_mirror_without_the_provider_is_refused_with_what_it_must_hold(
    tmp_path: Path, env: dict[str, str]
) -> None:
    with pytest.raises(UserError, match=r"COMFYEKS_TERRAFORM_MIRROR=.*must contain .*linux_amd64"):
        provider_mirror.environment(tmp_path / "state", {**env, provider_mirror.MIRROR_VARIABLE: str(tmp_path)})


@pytest.mark.parametrize("variable", ["TF_CLI_CONFIG_FILE", None])
def test_users_own_configuration_is_kept(
    tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    monkeypatch.setattr(provider_mirror, "USUAL_PLACES", (str(unpack(tmp_path / "place")),))
    own = Path(env["HOME"]) / ".terraformrc"
    own.write_text("# mine\n")
    env |= {variable: str(own)} if variable else {}
    result = provider_mirror.environment(tmp_path / "state", env)
    assert result.get("TF_CLI_CONFIG_FILE") == env.get("TF_CLI_CONFIG_FILE")
    assert not (tmp_path / "state").exists()


def test_variable_that_names_a_missing_configuration_is_removed(tmp_path: Path, env: dict[str, str]) -> None:
    result = provider_mirror.environment(tmp_path / "state", {**env, "TF_CLI_CONFIG_FILE": str(tmp_path / "missing")})
    assert "TF_CLI_CONFIG_FILE" not in result


def test_mirror_that_terraform_finds_by_itself_needs_no_configuration(
    tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack(Path(env["HOME"]) / ".terraform.d/plugins")
    monkeypatch.setattr(provider_mirror, "USUAL_PLACES", (str(unpack(tmp_path / "place")),))
    assert "TF_CLI_CONFIG_FILE" not in provider_mirror.environment(tmp_path / "state", env)


def test_search_ends_after_a_bounded_number_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}").mkdir()
    unpack(tmp_path / "zz")
    monkeypatch.setattr(provider_mirror, "SEARCH_FOLDERS", 10)
    assert provider_mirror.find_mirror(iter([tmp_path])) is None
    monkeypatch.setattr(provider_mirror, "SEARCH_FOLDERS", 30)
    assert provider_mirror.find_mirror(iter([tmp_path])) == tmp_path / "zz"


def test_search_ends_at_a_small_depth(tmp_path: Path) -> None:
    unpack(tmp_path / "1/2/3/4")
    assert provider_mirror.find_mirror(iter([tmp_path])) is None
    assert provider_mirror.find_mirror(iter([tmp_path / "1"])) == tmp_path / "1/2/3/4"


def test_configuration_is_written_once(tmp_path: Path, env: dict[str, str]) -> None:
    env[provider_mirror.MIRROR_VARIABLE] = str(unpack(tmp_path / "named"))
    path = Path(provider_mirror.environment(tmp_path / "state", env)["TF_CLI_CONFIG_FILE"])
    before = path.stat()
    provider_mirror.environment(tmp_path / "state", env)
    assert path.stat().st_ino == before.st_ino
