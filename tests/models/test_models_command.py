"""`comfyeks models add|ls|rm` on an S3 in this process."""

from __future__ import annotations

import json
import re
import runpy
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner, Result

from comfyeks.errors import ComfyeksError, OperationError, UserError
from comfyeks.models.cli import app
from comfyeks.models.store import ARCHIVED, ModelStore
from comfyeks.paths import REPO_ROOT
from tests.models.conftest import BUCKET
from tests.support.safetensors import BROKEN, safetensors


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: Any) -> ComfyeksError:
    error = run(*arguments).exception
    assert isinstance(error, ComfyeksError), error
    return error


def stored(session: boto3.Session) -> dict[str, bytes]:
    s3 = session.client("s3")
    listing = s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {item["Key"]: s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read() for item in listing}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "my model+[1] 模.safetensors"
    path.write_bytes(safetensors("x"))
    return path


def test_files_are_added_under_their_folder(session: boto3.Session, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"weights")
    result = run("add", model, other, "--to", "loras/style")
    assert result.exit_code == 0, result.exception
    assert result.stdout.splitlines() == [f"loras/style/{model.name}", "loras/style/other.gguf"]
    assert stored(session) == {f"loras/style/{model.name}": model.read_bytes(), "loras/style/other.gguf": b"weights"}


def test_a_file_can_get_another_name_and_go_to_another_bucket(session: boto3.Session, model: Path) -> None:
    session.client("s3").create_bucket(
        Bucket="elsewhere", CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
    )
    assert run("add", model, "--to", "vae", "--as", "v1.safetensors", "--bucket", "elsewhere").exit_code == 0
    [item] = session.client("s3").list_objects_v2(Bucket="elsewhere")["Contents"]
    assert item["Key"] == "vae/v1.safetensors"


def test_nothing_is_replaced_without_force_and_nothing_uploaded_when_one_exists(
    session: boto3.Session, model: Path, tmp_path: Path
) -> None:
    run("add", model, "--to", "vae")
    other = safetensors("other bytes")
    model.write_bytes(other)
    new = tmp_path / "new.gguf"
    new.write_bytes(b"new")
    error = refused("add", new, model, "--to", "vae")
    assert isinstance(error, OperationError)
    assert f"vae/{model.name} in {BUCKET} already: nothing was uploaded. --force" in str(error)
    assert list(stored(session)) == [f"vae/{model.name}"]
    assert run("add", new, model, "--to", "vae", "--force").exit_code == 0
    assert stored(session)[f"vae/{model.name}"] == other


@pytest.mark.parametrize("size", [10, 70 * 2**20], ids=["one part", "several parts"])
def test_an_upload_asks_s3_itself_not_to_overwrite(session: boto3.Session, tmp_path: Path, size: int) -> None:
    path = tmp_path / "big"
    with path.open("wb") as stream:
        stream.truncate(size)
    sent: list[tuple[str, str | None]] = []
    store = ModelStore(session, BUCKET)
    original = session.client

    def watched(name: str, **options: Any) -> Any:
        client = original(name, **options)  # type: ignore[call-overload]
        client.meta.events.register(
            "before-send.s3",
            lambda request, **_: sent.append((request.method, request.headers.get("If-None-Match"))),
        )
        return client

    session.client = watched  # type: ignore[method-assign,assignment]
    for force in (False, True):
        store.upload(path, f"vae/{force}", force=force, on_bytes=lambda _: None)
    protected = [method for method, header in sent if header is not None]
    assert protected == ["PUT" if size == 10 else "POST"]
    assert {model.key: model.size for model in store.models()} == {"vae/False": size, "vae/True": size}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/such/file", "--to", "vae"], "/no/such/file: there is no such file"),
        (["FOLDER", "--to", "vae"], "is a directory; name its files"),
        (["MODEL", "--to", "../vae"], "has a name that starts with a dot"),
        (["MODEL", "--to", "/"], "has an empty folder name"),
        (["MODEL", "MODEL", "--to", "vae"], "several files would become vae/"),
        (["MODEL", "MODEL", "--to", "vae", "--as", "x"], "is for one file, and 2 are given"),
        (["MODEL", "--to", "vae", "--bucket", "not-there-123"], "there is no bucket not-there-123"),
    ],
)
def test_what_cannot_be_added_is_refused(
    session: boto3.Session, model: Path, arguments: list[str], message: str
) -> None:
    names = {"MODEL": str(model), "FOLDER": str(model.parent)}
    error = refused("add", *[names.get(argument, argument) for argument in arguments])
    assert isinstance(error, UserError)
    assert message in str(error)
    assert stored(session) == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"{number}.safetensors", data) for number, data in enumerate(BROKEN.values())),
        ("pickle.ckpt", b"weights"),
        ("zip.gguf", b"PK\x03\x04 archive/data.pkl"),
        ("pointer.gguf", b"version https://git-lfs."),
    ],
)
def test_a_file_that_does_not_fit_its_name_is_refused(
    session: boto3.Session, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    error = refused("add", tmp_path / name, "--to", "vae")
    assert isinstance(error, UserError)
    assert str(error).startswith(f"{tmp_path / name}: ")
    assert stored(session) == {}
    if "pickle format" in str(error):
        assert run("add", tmp_path / name, "--to", "vae", "--allow-pickle").exit_code == 0


def test_a_file_in_the_place_of_a_catalogues_model_must_be_that_model(session: boto3.Session, tmp_path: Path) -> None:
    path = tmp_path / "sd_xl_base_1.0.safetensors"
    path.write_bytes(safetensors("not SDXL"))
    error = refused("add", path, "--to", "checkpoints")
    assert "its size" in str(error)
    assert "differs from the catalogue's 6938078334 for sdxl-base" in str(error)
    assert stored(session) == {}
    assert run("add", path, "--to", "checkpoints", "--force").exit_code == 0
    assert run("add", path, "--to", "loras").exit_code == 0


def test_ls_shows_what_the_nodes_skip(session: boto3.Session) -> None:
    s3 = session.client("s3")
    for key in ("checkpoints/a.safetensors", "loras/[b] 中.safetensors", "build.log", "vae/", "loras/x", "loras/x/y"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"12345")
    rows = {row["key"]: row for row in json.loads(run("ls", "--json").stdout)}
    assert len(rows) == 6
    row = rows["loras/[b] 中.safetensors"]
    assert datetime.fromisoformat(row.pop("modified")).tzinfo is not None
    assert row == {"key": "loras/[b] 中.safetensors", "bytes": 5, "ignored": None}
    assert {key for key, row in rows.items() if row["ignored"]} == {"build.log", "vae/", "loras/x/y"}
    table = run("ls", "loras/")
    assert "loras/[b] 中.safetensors" in table.stdout
    assert "checkpoints" not in table.stdout
    assert "3 objects" in table.stderr


def test_ls_prints_no_key_as_markup_or_as_terminal_commands(session: boto3.Session) -> None:
    keys = ["loras/[/abc]", "loras/[red]x[bold]", "loras/:smile:", "loras/a\x1b]0;owned\x07b\x9b2J", "loras/back\\"]
    for key in keys:
        session.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b"1")
    table = run("ls")
    assert table.exit_code == 0, table.exception
    assert not {"\x1b", "\x07", "\x9b"} & set(table.stdout)
    for key in keys:
        shown = re.sub("[\x00-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", key)
        assert shown in table.stdout


def test_archived_objects_are_listed_as_skipped(session: boto3.Session) -> None:
    s3 = session.client("s3")
    for storage_class in ("STANDARD", "INTELLIGENT_TIERING", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"):
        s3.put_object(Bucket=BUCKET, Key=f"vae/{storage_class}", Body=b"1", StorageClass=storage_class)
    s3.put_object(Bucket=BUCKET, Key="vae/GLACIER/below", Body=b"1")  # no conflict: the file above is on no node
    ignored = {model.key: model.ignored for model in ModelStore(session, BUCKET).models() if model.ignored}
    assert sorted(ignored) == ["vae/DEEP_ARCHIVE", "vae/GLACIER"]
    assert "not on nodes: is archived (GLACIER); copy it to another storage class" in run("ls").stdout


def test_the_nodes_skip_the_same_storage_classes() -> None:
    assert set(runpy.run_path(str(REPO_ROOT / "node" / "comfyui-model-sync"))["ARCHIVED"]) == set(ARCHIVED)


def test_rm_deletes_only_existing_models_and_only_after_asking(session: boto3.Session) -> None:
    s3 = session.client("s3")
    for key in ("vae/a", "vae/b", "vae/c"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    error = refused("rm", "vae/a", "vae/nope", "--yes")
    assert isinstance(error, UserError)
    assert "vae/nope" in str(error)
    assert isinstance(refused("rm", "vae/a"), UserError)  # no terminal to ask on
    assert len(stored(session)) == 3
    assert run("rm", "vae/a", "vae/b", "--yes").stdout.split() == ["vae/a", "vae/b"]
    assert list(stored(session)) == ["vae/c"]
