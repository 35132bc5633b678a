"""comfyeks custom-nodes: local repositories behind https addresses, a folder as package index, the real uv."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from comfyeks.errors import OperationError, UserError
from comfyeks.image import custom_nodes
from tests.image.harness import HOST, GitHost, Index, git

Files = dict[str, str]


class Workspace:
    """image/ of a small project: ComfyUI asks for `base`, constraints pin `torch`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.image = folder / "image"
        self.host = GitHost(folder / "host")
        self.index = Index(folder / "wheels")
        for name, value in {**self.host.environment(), **self.index.environment()}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(custom_nodes, "IMAGE", self.image)

    def prepare(self) -> None:
        (self.image / "requirements").mkdir(parents=True)
        (self.image / "requirements/constraints.txt").write_text("# why\ntorch==2.1\n")
        for name, version in (("base", "1.0"), ("torch", "2.1"), ("torch", "2.2"), ("triton", "1.0")):
            self.index.wheel(name, version, ["nvidia-cuda", "triton"] if name == "torch" else [])
        self.index.wheel("nvidia-cuda", "13.0")
        comfyui = self.host.commit("ComfyUI", {"requirements.txt": "base\ntorch\n"}, tag="v1.0.0")
        lock = custom_nodes.Lock(
            custom_nodes.Source("comfyui", HOST + "ComfyUI", "v1.0.0", comfyui, ("base", "torch")), (), (), None
        )
        custom_nodes.save(lock)

    def node(self, name: str, *requirements: str, **files: str) -> str:
        """Commit a custom node that asks for these packages; returns the commit."""
        text = "".join(f"{line}\n" for line in requirements)
        return self.host.commit(name, {"__init__.py": "", "requirements.txt": text, **files})

    def packages(self, file: str = "comfyui.lock") -> dict[str, str]:
        return custom_nodes.versions((self.image / "requirements" / file).read_text())

    def lock(self) -> dict[str, Any]:
        data: dict[str, Any] = yaml.safe_load((self.image / "custom-nodes.lock.yaml").read_text())
        return data

    def files(self) -> Files:
        return {str(path): path.read_text() for path in sorted(self.image.rglob("*")) if path.is_file()}

    def refused(self, *arguments: str, error: type[Exception] = UserError) -> str:
        """Run a command that must fail and change nothing; returns its message."""
        before = self.files()
        with pytest.raises(error) as caught:
            comfyeks(*arguments)
        assert self.files() == before
        return str(caught.value)


def comfyeks(*arguments: str) -> Result:
    return CliRunner().invoke(custom_nodes.app, list(arguments), catch_exceptions=False, standalone_mode=False)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace to copy: prepared once, because each resolution takes a moment."""
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as monkeypatch:
        Workspace(folder, monkeypatch).prepare()
    return folder


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return Workspace(tmp_path, monkeypatch)


# -- add --------------------------------------------------------------------------------------------------------------


def test_a_node_is_added_at_the_commit_of_its_default_branch_with_what_it_asks_for(workspace: Workspace) -> None:
    workspace.index.wheel("blur", "3.0")
    commit = workspace.node("demo", "blur>=2  # soft", "", "# comment", "torch")
    comfyeks("add", HOST + "demo")
    assert workspace.lock()["nodes"] == [
        {
            "name": "demo",
            "repository": HOST + "demo",
            "ref": "main",
            "commit": commit,
            "requirements": ["blur>=2", "torch"],
        }
    ]
    assert workspace.packages() == {
        "base": "1.0",
        "blur": "3.0",
        "nvidia-cuda": "13.0",
        "torch": "2.1",
        "triton": "1.0",
    }
    comfyeks("check")


def test_the_lock_says_which_source_required_a_package_and_has_its_hash(workspace: Workspace) -> None:
    workspace.index.wheel("blur", "3.0")
    workspace.node("demo", "blur")
    comfyeks("add", HOST + "demo")
    text = (workspace.image / "requirements/comfyui.lock").read_text()
    assert re.search(r"^blur==3\.0 \\\n +--hash=sha256:[0-9a-f]{64}\n +# via -r demo\.in$", text, re.MULTILINE)
    assert "--only-binary :all:" in text
    assert str(workspace.image.parent) not in text


def test_the_cpu_lock_is_without_cuda_and_without_hashes_of_torch(workspace: Workspace) -> None:
    text = (workspace.image / "requirements/comfyui.cpu.lock").read_text()
    assert workspace.packages("comfyui.cpu.lock") == {"base": "1.0", "torch": "2.1"}
    assert re.search(r"^base==1\.0 \\\n +--hash", text, re.MULTILINE)
    assert re.search(r"^torch==2\.1\n +# via", text, re.MULTILINE)


def test_a_cuda_package_that_a_node_itself_asks_for_stays_in_the_cpu_lock(workspace: Workspace) -> None:
    workspace.node("demo", "Triton")
    comfyeks("add", HOST + "demo")
    assert "triton" in workspace.packages("comfyui.cpu.lock")


def test_an_annotated_tag_is_the_commit_behind_it(workspace: Workspace) -> None:
    commit = workspace.host.commit("demo", {"__init__.py": ""}, tag="v2")
    workspace.node("demo")
    comfyeks("add", HOST + "demo", "--ref", "v2")
    [node] = workspace.lock()["nodes"]
    assert (node["ref"], node["commit"]) == ("v2", commit)


def test_a_commit_can_be_named_and_is_then_what_is_followed(workspace: Workspace) -> None:
    commit = workspace.node("demo")
    workspace.node("demo")
    comfyeks("add", HOST + "demo", "--ref", commit, "--name", "other")
    comfyeks("update")
    [node] = workspace.lock()["nodes"]
    assert (node["name"], node["ref"], node["commit"]) == ("other", commit, commit)


def test_a_node_with_only_a_pyproject_asks_for_its_dependencies(workspace: Workspace) -> None:
    workspace.index.wheel("blur", "3.0")
    workspace.host.commit(
        "demo.git", {"__init__.py": "", "pyproject.toml": '[project]\nname = "x"\ndependencies = ["blur"]\n'}
    )
    comfyeks("add", HOST + "demo.git")
    [node] = workspace.lock()["nodes"]
    assert (node["name"], node["requirements"]) == ("demo", ["blur"])


def test_an_install_script_that_the_image_does_not_run_is_mentioned(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.host.commit("demo", {"__init__.py": "", "install.py": ""})
    source = custom_nodes.read_source("demo", HOST + "demo", *custom_nodes.newest(HOST + "demo", None))
    assert source.requirements == ()
    assert "install.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["git@git.example:x/demo"], "not an https:// address"),
        (["https://user:secret@git.example/demo"], "without credentials"),
        ([HOST + "demo", "--name", "../x"], "'../x' cannot be a folder's name"),
        ([HOST + "demo", "--name", "COMFYUI"], "comfyui exists already"),
        ([HOST + "ComfyUI.git", "--name", "x"], "exists already as comfyui"),
        ([HOST + "demo", "--ref", "v9"], "has no branch or tag 'v9'"),
        ([HOST + "odd"], "requires 'git+https://git.example/x'"),
        ([HOST + "options"], "requires '--extra-index-url https://x'"),
        ([HOST + "address"], "requires 'x @ https://git.example/x.whl'"),
        ([HOST + "nothing"], "has no __init__.py"),
    ],
)
def test_an_invalid_custom_node_is_refused_with_the_reason(
    workspace: Workspace, arguments: list[str], message: str
) -> None:
    workspace.node("demo")
    workspace.node("odd", "git+https://git.example/x")
    workspace.node("options", "--extra-index-url https://x")
    workspace.node("address", "x @ https://git.example/x.whl")
    workspace.host.commit("nothing", {"readme": ""})
    assert message in workspace.refused("add", *arguments)


def test_a_repository_that_does_not_answer_is_a_failure_without_a_prompt(workspace: Workspace) -> None:
    assert HOST + "absent" in workspace.refused("add", HOST + "absent", error=OperationError)


def test_a_commit_that_the_repository_does_not_have_is_a_failure(workspace: Workspace) -> None:
    workspace.node("demo")
    assert "0" * 40 in workspace.refused("add", HOST + "demo", "--ref", "0" * 40, error=OperationError)


# -- conflicts --------------------------------------------------------------------------------------------------------


def test_a_conflict_names_two_nodes_and_their_requirements_and_no_uninvolved_third(workspace: Workspace) -> None:
    for version in ("1.0", "2.0"):
        workspace.index.wheel("blur", version)
    workspace.index.wheel("sharp", "1.0")
    workspace.node("first", "blur<2", "sharp")
    workspace.node("uninvolved", "sharp")
    workspace.node("second", "blur>=2")
    comfyeks("add", HOST + "first")
    comfyeks("add", HOST + "uninvolved")
    message = workspace.refused("add", HOST + "second")
    assert message.startswith("first and second cannot be in one image; nothing was changed.")
    assert "first: blur<2" in message
    assert "second: blur>=2" in message
    assert "uninvolved" not in message
    assert "sharp" not in message


def test_a_conflict_through_a_third_package_names_it(workspace: Workspace) -> None:
    for version in ("1.0", "2.0"):
        workspace.index.wheel("blur", version)
    workspace.index.wheel("filter", "1.0", ["blur<2"])
    workspace.node("first", "filter")
    workspace.node("second", "blur>=2")
    comfyeks("add", HOST + "first")
    message = workspace.refused("add", HOST + "second")
    assert "first: filter" in message
    assert re.search(r"filter.* depends? on blur<2", message)


def test_a_conflict_with_comfyui_says_so(workspace: Workspace) -> None:
    workspace.index.wheel("base", "0.9")
    workspace.host.commit("ComfyUI", {"requirements.txt": "base>=1\ntorch\n"}, tag="v2.0.0")
    comfyeks("update", "comfyui", "--ref", "v2.0.0")
    workspace.node("demo", "base<1")
    message = workspace.refused("add", HOST + "demo")
    assert message.startswith("ComfyUI v2.0.0 and demo cannot be in one image")


def test_a_conflict_with_the_constraints_names_them(workspace: Workspace) -> None:
    workspace.node("demo", "torch>=2.2")
    message = workspace.refused("add", HOST + "demo")
    assert message.startswith("demo and the constraints cannot be in one image")
    assert "requirements/constraints.txt: torch==2.1" in message


def test_a_package_that_does_not_exist_is_blamed_on_its_node(workspace: Workspace) -> None:
    workspace.node("uninvolved", "base")
    comfyeks("add", HOST + "uninvolved")
    workspace.node("demo", "no-such-package")
    message = workspace.refused("add", HOST + "demo")
    assert message.startswith("the requirements of demo do not exist; nothing was changed.")


# -- update and remove ------------------------------------------------------------------------------------------------


def test_update_moves_the_named_node_and_leaves_the_others(workspace: Workspace) -> None:
    workspace.node("first")
    old = workspace.node("second")
    for name in ("first", "second"):
        comfyeks("add", HOST + name)
    new = workspace.node("first", "base")
    workspace.node("second")
    result = comfyeks("update", "FIRST")
    assert [node["commit"] for node in workspace.lock()["nodes"]] == [new, old]
    assert re.search(r"^first [0-9a-f]{12} -> main " + new[:12] + "$", result.stdout, re.MULTILINE)


def test_update_without_names_moves_all_and_keeps_the_order(workspace: Workspace) -> None:
    for name in ("zeta", "alpha"):
        workspace.node(name)
        comfyeks("add", HOST + name)
    commits = [workspace.node(name) for name in ("zeta", "alpha")]
    comfyeks("update")
    assert [(node["name"], node["commit"]) for node in workspace.lock()["nodes"]] == [
        *zip(("zeta", "alpha"), commits, strict=True)
    ]


def test_comfyui_itself_moves_to_another_release(workspace: Workspace) -> None:
    workspace.index.wheel("base", "2.0")
    commit = workspace.host.commit("ComfyUI", {"requirements.txt": "base==2.0\ntorch\n"}, tag="v2.0.0")
    result = comfyeks("update", "comfyui", "--ref", "v2.0.0")
    assert workspace.lock()["comfyui"]["commit"] == commit
    assert "base 1.0 -> 2.0" in result.stdout.splitlines()


def test_packages_stay_as_they_are_unless_they_must_move_or_an_upgrade_is_asked_for(workspace: Workspace) -> None:
    workspace.index.wheel("base", "1.1")
    workspace.node("demo")
    comfyeks("add", HOST + "demo")
    assert workspace.packages()["base"] == "1.0"
    comfyeks("update", "--upgrade")
    assert workspace.packages()["base"] == "1.1"


def test_a_constraint_is_taken_up_by_an_update(workspace: Workspace) -> None:
    (workspace.image / "requirements/constraints.txt").write_text("torch==2.2\n")
    assert "resolved from other requirements or constraints" in workspace.refused("check", error=OperationError)
    comfyeks("update")
    assert workspace.packages()["torch"] == "2.2"
    comfyeks("check")


def test_remove_also_removes_the_packages_that_only_the_node_required(workspace: Workspace) -> None:
    workspace.index.wheel("blur", "3.0")
    before = workspace.packages()
    workspace.node("demo", "blur", "base")
    comfyeks("add", HOST + "demo")
    comfyeks("remove", "demo")
    assert workspace.lock()["nodes"] == []
    assert workspace.packages() == before
    comfyeks("check")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["update", "absent"], "there is no custom node 'absent'"),
        (["update", "--ref", "main"], "--ref is for one custom node"),
        (["update", "--packages-until", "soon"], "'soon', not a day"),
        (["remove", "comfyui"], "cannot be removed"),
    ],
)
def test_an_invalid_argument_changes_nothing(workspace: Workspace, arguments: list[str], message: str) -> None:
    workspace.node("demo")
    comfyeks("add", HOST + "demo")
    assert message in workspace.refused(*arguments)


def test_only_releases_up_to_a_day_are_asked_of_uv(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = custom_nodes.subprocess.run

    def run(command: list[str], **settings: Any) -> Any:
        asked.append(command)
        return real([argument for argument in command if not argument.startswith("--exclude-newer")], **settings)

    monkeypatch.setattr(custom_nodes.subprocess, "run", run)
    comfyeks("update", "--packages-until", "2026-10-31")
    assert any("--exclude-newer=2026-10-31" in command for command in asked)
    assert workspace.lock()["packages_until"] == "2026-10-31"
    assert "'2026-10-31'" in (workspace.image / "custom-nodes.lock.yaml").read_text()


# -- packages without wheels ------------------------------------------------------------------------------------------


def test_a_source_distribution_is_refused_unless_it_is_named(workspace: Workspace) -> None:
    folder = workspace.index.folder
    project = folder.parent / "src" / "raw-1.0"
    project.mkdir(parents=True)
    metadata = "Metadata-Version: 2.2\nName: raw\nVersion: 1.0\n"
    (project / "PKG-INFO").write_text(metadata)
    (project / "pyproject.toml").write_text('[project]\nname = "raw"\nversion = "1.0"\n')
    custom_nodes.subprocess.run(["tar", "-czf", folder / "raw-1.0.tar.gz", "-C", project.parent, "raw-1.0"], check=True)
    workspace.node("demo", "raw")
    message = workspace.refused("add", HOST + "demo")
    assert "build_from_source" in message
    lock = workspace.image / "custom-nodes.lock.yaml"
    lock.write_text(lock.read_text().replace("build_from_source: []", "build_from_source: [raw]"))
    comfyeks("add", HOST + "demo")
    text = (workspace.image / "requirements/comfyui.lock").read_text()
    assert workspace.packages()["raw"] == "1.0"
    assert "--no-binary raw" in text


# -- check ------------------------------------------------------------------------------------------------------------


def edit(name: str, old: str, new: str) -> Callable[[Workspace], None]:
    def change(workspace: Workspace) -> None:
        path = workspace.image / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("custom-nodes.lock.yaml", "- base", "- base>=0"), "resolved from other requirements"),
        (edit("custom-nodes.lock.yaml", "build_from_source: []", "build_from_source: [x]"), "resolved from other"),
        (edit("requirements/comfyui.cpu.lock", "base==1.0", "base==1.1"), "is not comfyui.lock without CUDA"),
        (
            lambda workspace: (workspace.image / "requirements/comfyui.lock").unlink(),
            "resolved from other requirements",
        ),
        (
            lambda workspace: (workspace.image / "requirements/comfyui.cpu.lock").unlink(),
            "is not comfyui.lock without CUDA",
        ),
    ],
)
def test_check_finds_what_is_stale_without_a_network(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, change: Callable[[Workspace], None], message: str
) -> None:
    monkeypatch.setattr(custom_nodes.subprocess, "run", None)
    comfyeks("check")
    change(workspace)
    found = workspace.refused("check", error=OperationError)
    assert message in found
    assert found.endswith("comfyeks custom-nodes update")


def test_a_comment_among_the_constraints_makes_nothing_stale(workspace: Workspace) -> None:
    edit("requirements/constraints.txt", "# why", "# because")(workspace)
    comfyeks("check")


def test_check_remote_asks_the_repositories_and_the_index(workspace: Workspace) -> None:
    commit = workspace.node("demo", "base")
    comfyeks("add", HOST + "demo")
    result = comfyeks("check", "--remote")
    assert result.stdout == "ComfyUI v1.0.0, 1 custom nodes, 4 packages\n"
    (workspace.index.folder / "base-1.0-py3-none-any.whl").unlink()
    workspace.index.wheel("base", "1.5")
    assert "does not resolve to itself" in workspace.refused("check", "--remote", error=OperationError)
    lock = custom_nodes.load()
    odd = custom_nodes.replace(lock.find("demo"), requirements=("torch",))
    custom_nodes.save(lock.with_source(odd))
    assert f"demo at {commit} has other requirements" in workspace.refused("check", "--remote", error=OperationError)


# -- the lock file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nodes: []", "nodes: {}", "nodes is {}, not a list"),
        ("nodes: []", "nodes: []\nextra: 1", "and no others"),
        ("nodes: []", "nodes: [demo]", "nodes[0] must have exactly repository, ref, commit, requirements"),
        ("repository: https", "repository: http", "comfyui.repository is 'http://git.example/ComfyUI'"),
        ("ref: v1.0.0", "reference: v1.0.0", "comfyui must have exactly"),
        ("  - base", "  - 1", "not a list of strings"),
        ("packages_until: null", "packages_until: soon", "'soon', not a day"),
        ("packages_until: null", "packages_until: 2026-13-01", "is not YAML"),
        ("comfyui:", "comfyui: [", "is not YAML"),
    ],
)
def test_a_wrong_lock_file_is_refused_with_the_place(workspace: Workspace, old: str, new: str, message: str) -> None:
    edit("custom-nodes.lock.yaml", old, new)(workspace)
    assert message in workspace.refused("check")


def test_an_invalid_commit_is_refused_with_the_place(workspace: Workspace) -> None:
    commit = workspace.lock()["comfyui"]["commit"]
    edit("custom-nodes.lock.yaml", commit, "main")(workspace)
    assert "comfyui.commit is 'main', not 40 hexadecimal digits" in workspace.refused("check")


def test_two_folders_of_one_name_are_refused(workspace: Workspace) -> None:
    source = workspace.lock()["comfyui"]
    twice = [{"name": name, **source} for name in ("demo", "Demo")]
    edit("custom-nodes.lock.yaml", "nodes: []", f"nodes: {yaml.safe_dump(twice, default_flow_style=True)}")(workspace)
    assert "the name 'demo' is used twice" in workspace.refused("check")


def test_a_missing_lock_file_is_named(workspace: Workspace) -> None:
    (workspace.image / "custom-nodes.lock.yaml").unlink()
    assert "custom-nodes.lock.yaml does not exist" in workspace.refused("check")


def test_what_is_written_is_read_back_as_it_was(workspace: Workspace) -> None:
    workspace.node("demo", "base")
    comfyeks("add", HOST + "demo")
    lock = custom_nodes.load()
    assert custom_nodes.dump(lock) == (workspace.image / "custom-nodes.lock.yaml").read_text()
    assert [source.name for source in lock.sources] == ["comfyui", "demo"]


def test_an_interrupted_tag_lookup_asks_git_nothing_interactive(workspace: Workspace) -> None:
    workspace.node("demo")
    git(workspace.host.folder / "demo", "tag", "light")
    assert custom_nodes.newest(HOST + "demo", "light")[0] == "light"
