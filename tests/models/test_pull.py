"""`comfyeks models pull` from a web server with every fault, into an S3 in this process."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner, Result

from comfyeks.errors import ComfyeksError, OperationError, UserError
from comfyeks.models import catalogue, pull_command
from comfyeks.models.cli import app
from comfyeks.models.sources import Tokens
from comfyeks.models.store import ModelStore
from comfyeks.models.transfer import Progress, Pulled, Wanted, pull
from tests.models.conftest import BUCKET, DEPLOYMENT
from tests.models.web import TOKEN, Web, serving_models
from tests.support.safetensors import BROKEN, safetensors

pytestmark = pytest.mark.local

NAME = "model.safetensors"
KEY = f"checkpoints/{NAME}"
PART = 64 << 10  # as small as the S3 in this process can be made to take
# Several parts and a bit, of bytes that differ everywhere.
MODEL = safetensors("m", size=4 * PART)[: -4 * PART] + random.Random(1).randbytes(4 * PART)
SHA256 = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfyeks.models.multipart.MIN_PART", PART)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving_models() as running:
        running.add(NAME, MODEL)
        yield running


@pytest.fixture
def store(session: boto3.Session) -> ModelStore:
    return ModelStore(session, BUCKET)


def stored(session: boto3.Session) -> dict[str, bytes]:
    s3 = session.client("s3")
    listing = s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {item["Key"]: s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read() for item in listing}


def unfinished(session: boto3.Session) -> int:
    return len(session.client("s3").list_multipart_uploads(Bucket=BUCKET).get("Uploads", []))


def bring(store: ModelStore, web: Web, fault: str, tokens: dict[str, str] | None = None, **options: Any) -> Pulled:
    wanted = Wanted(f"{web.url}/{fault}/{NAME}", "checkpoints", NAME, options.pop("size", len(MODEL)), SHA256)
    known = Tokens({}, lambda: tokens or {})
    return pull(store, wanted, known, retry_pause=0.01, **options)


@pytest.mark.parametrize("fault", ["ok", "drop", "no-range", "elsewhere", "flaky"])
def test_the_right_file_lands_with_the_right_hash_whatever_the_connection_does(
    session: boto3.Session, store: ModelStore, web: Web, fault: str
) -> None:
    seen: list[int] = []
    done = bring(store, web, fault, progress=Progress(advance=seen.append))
    assert done == Pulled(KEY, len(MODEL), SHA256)
    assert stored(session) == {KEY: MODEL}
    assert unfinished(session) == 0
    assert sum(seen) == len(MODEL)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("page", "answers with a web page, not a file"),
        ("moved", "answers with a web page, not a file"),
        ("missing", "answers 404"),
        ("gated", "answers 401: it wants a token"),
        ("wrong", f"not {SHA256}: damaged, or another file; nothing was stored"),
        ("changed", "the file changed on the server during the transfer"),
    ],
)
def test_a_wrong_file_leaves_nothing(
    session: boto3.Session, store: ModelStore, web: Web, fault: str, message: str
) -> None:
    with pytest.raises(OperationError) as failure:
        bring(store, web, fault)
    assert message in str(failure.value)
    assert str(failure.value).startswith(f"{web.url}/{fault}/{NAME}: ")
    assert stored(session) == {}
    assert unfinished(session) == (fault == "changed")  # its good parts are kept for another attempt


def test_a_body_that_ends_early_repeatedly_is_an_error_and_is_resumed_later(
    session: boto3.Session, store: ModelStore, web: Web
) -> None:
    web.drop_after = 0
    with pytest.raises(OperationError, match=r"gave up after 8 attempts at byte \d+"):
        bring(store, web, "short", connections=1)
    assert stored(session) == {}
    bring(store, web, "ok")
    assert stored(session) == {KEY: MODEL}


def test_a_source_with_another_size_than_the_catalogue_is_refused_before_it_is_read(
    session: boto3.Session, store: ModelStore, web: Web
) -> None:
    with pytest.raises(OperationError, match=f"has {len(MODEL)} bytes, not 7: an error page, or another file"):
        bring(store, web, "ok", size=7)
    assert web.sent <= 2
    assert unfinished(session) == 0


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_damaged_safetensors_file_is_refused_by_its_header(
    session: boto3.Session, store: ModelStore, web: Web, content: bytes
) -> None:
    web.add("broken.safetensors", content)
    with pytest.raises(OperationError):
        pull(store, Wanted(f"{web.url}/ok/broken.safetensors", "vae", None), Tokens({}, dict), retry_pause=0.01)
    assert stored(session) == {}
    assert unfinished(session) == 0


def test_a_pickle_is_refused_unless_it_is_allowed(session: boto3.Session, store: ModelStore, web: Web) -> None:
    web.add("old.ckpt", b"PK\x03\x04 archive/data.pkl")
    url = f"{web.url}/ok/old.ckpt"
    with pytest.raises(OperationError, match="is in a pickle format"):
        pull(store, Wanted(url, "checkpoints", None), Tokens({}, dict))
    pull(store, Wanted(url, "checkpoints", None, allow_pickle=True), Tokens({}, dict))
    assert list(stored(session)) == ["checkpoints/old.ckpt"]


def test_an_interrupted_pull_resumes_and_uploads_no_part_twice(
    session: boto3.Session, store: ModelStore, web: Web
) -> None:
    class KillError(BaseException):
        pass

    def kill(count: int) -> None:
        raise KillError

    with pytest.raises(KillError):
        bring(store, web, "ok", connections=1, progress=Progress(advance=kill))
    assert stored(session) == {}
    assert unfinished(session) == 1
    sent: list[int] = []
    store._s3.meta.events.register(
        "before-call.s3.UploadPart", lambda params, **_: sent.append(int(params["url_path"] == "" or 1))
    )
    bring(store, web, "ok", connections=1)
    assert stored(session) == {KEY: MODEL}
    assert len(sent) < 5
    assert unfinished(session) == 0


def test_a_part_of_an_earlier_attempt_is_replaced_when_the_source_differs(
    session: boto3.Session, store: ModelStore, web: Web
) -> None:
    s3 = session.client("s3")
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=KEY)["UploadId"]
    s3.upload_part(Bucket=BUCKET, Key=KEY, UploadId=upload, PartNumber=1, Body=bytes(PART))
    bring(store, web, "ok")
    assert stored(session) == {KEY: MODEL}
    assert unfinished(session) == 0


def test_an_existing_model_is_kept_and_another_file_is_not_replaced_without_force(
    session: boto3.Session, store: ModelStore, web: Web
) -> None:
    session.client("s3").put_object(Bucket=BUCKET, Key=KEY, Body=b"mine")
    with pytest.raises(OperationError, match=f"has 4 bytes, not {len(MODEL)}: another file"):
        bring(store, web, "ok")
    assert web.log == []
    bring(store, web, "ok", force=True)
    assert bring(store, web, "missing") == Pulled(KEY, len(MODEL), None)
    assert stored(session) == {KEY: MODEL}


def test_an_object_that_appears_during_the_pull_is_kept(session: boto3.Session, store: ModelStore, web: Web) -> None:
    def somebody_else(count: int) -> None:
        session.client("s3").put_object(Bucket=BUCKET, Key=KEY, Body=b"theirs")

    with pytest.raises(OperationError, match=f"{KEY} exists in {BUCKET} already; --force"):
        bring(store, web, "ok", progress=Progress(advance=somebody_else))
    assert stored(session) == {KEY: b"theirs"}
    assert unfinished(session) == 0


def test_a_token_is_sent_to_its_host_only_and_is_in_no_message(
    session: boto3.Session, store: ModelStore, web: Web
) -> None:
    bring(store, web, "gated", {"127.0.0.1": TOKEN})
    assert stored(session) == {KEY: MODEL}
    with_token = {path.split("/")[1] for path, _, authorization in web.log if authorization}
    assert with_token == {"gated"}
    assert any(path.startswith("/signed/") for path, _, _ in web.log)
    with pytest.raises(OperationError) as failure:
        bring(store, web, "gated", {"127.0.0.1": "wrong-token-of-mine"}, force=True)
    assert "the token (the deployment's secret) is not valid" in str(failure.value)
    assert "wrong-token-of-mine" not in str(failure.value)
    assert "s3cr3t" not in str(failure.value)


def test_the_secret_is_read_only_for_a_host_that_requires_a_token(store: ModelStore, web: Web) -> None:
    def never() -> dict[str, str]:
        raise AssertionError("asked")

    pull(store, Wanted(f"{web.url}/ok/{NAME}", "vae", NAME), Tokens({}, never))


def test_the_hosts_own_hash_is_checked_when_ours_is_not_known(store: ModelStore, web: Web) -> None:
    """A Hugging Face file whose catalogue entry has no hash yet."""
    wanted = Wanted(f"{web.url}/gated/{NAME}", "vae", NAME, sha256="0" * 64)
    with pytest.raises(OperationError, match=f"its host reports sha256 {SHA256}, it must be 000"):
        pull(store, wanted, Tokens({}, lambda: {"127.0.0.1": TOKEN}))


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_catalogue(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three models of the test's server, as models/catalogue.yaml would have them but for their scheme."""
    path = tmp_path / "catalogue.yaml"
    models = [("first", "ok", len(MODEL), SHA256), ("second", "missing", None, None), ("third", "ok", None, None)]
    path.write_text("models:\n" + "".join(
        f"  - id: {name}\n    groups: [all]\n    folder: loras\n    file: {name}.safetensors\n"
        f"    url: https://example.com/{fault}/{NAME}\n    size: {size or 'null'}\n    sha256: {sha or 'null'}\n"
        "    licence: MIT\n    gated: false\n"
        for name, fault, size, sha in models
    ))  # fmt: skip
    load = catalogue.load
    monkeypatch.setattr(catalogue, "load", lambda: load(path))
    from_entry = pull_command.from_entry

    def from_here(entry: catalogue.Entry, **options: Any) -> Wanted:
        wanted = from_entry(entry, **options)
        return Wanted(wanted.url.replace("https://example.com", web.url), *list(vars(wanted).values())[1:])

    monkeypatch.setattr(pull_command, "from_entry", from_here)
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["pull", *map(str, arguments)])


def test_a_group_is_pulled_except_for_failures_and_null_fields_are_filled_in(
    session: boto3.Session, own_catalogue: Path
) -> None:
    result = run("all")
    assert isinstance(result.exception, OperationError)
    assert str(result.exception) == "1 of 3 were not pulled"
    assert result.stdout.split() == ["loras/first.safetensors", "loras/third.safetensors"]
    assert "answers 404" in result.stderr
    assert "size and sha256 written to catalogue.yaml; commit that" in result.stderr
    assert set(stored(session)) == {"loras/first.safetensors", "loras/third.safetensors"}
    third = catalogue.load().select(["third"])[0]
    assert (third.size, third.sha256) == (len(MODEL), SHA256)


def test_a_workflow_names_what_to_pull(session: boto3.Session, own_catalogue: Path, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    lora = {"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": "first.safetensors"}}
    path.write_text(json.dumps({"1": lora}))
    assert run(path).stdout.split() == ["loras/first.safetensors"]
    path.write_text(json.dumps({"1": {**lora, "inputs": {"lora_name": "unknown.safetensors"}}}))
    assert "the catalogue does not have loras/unknown.safetensors" in str(run(path).exception)


def test_a_url_gets_its_name_from_the_server_and_its_hash_is_shown(session: boto3.Session, web: Web) -> None:
    result = run(f"{web.url}/ok/{NAME}", "--to", "loras/style", "--bucket", BUCKET)
    assert result.stdout.split() == [f"loras/style/{NAME}"]
    assert SHA256 in result.stderr
    assert stored(session) == {f"loras/style/{NAME}": MODEL}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["https://example.com/x"], "give the models folder with --to"),
        (["https://example.com/x", "--to", "../x"], "--to '../x': has a name that starts with a dot"),
        (["https://example.com/x", "--to", "vae", "--sha256", "abc"], "--sha256 'abc': must be 64 hex digits"),
        (["https://a/x", "https://a/y", "--to", "vae", "--as", "z"], "for one file, and 2 URLs are given"),
        (["sdxl", "--to", "vae"], "--to, --as and --sha256 are for a URL"),
        (["ftp://example.com/x", "--to", "vae"], "must be an https:// or http:// address"),
        (["sdlx"], "did you mean sdxl"),
        (["no/such/file.json"], "there is no such file"),
    ],
)
def test_invalid_arguments_are_refused(session: boto3.Session, arguments: list[str], message: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, UserError)
    assert message in str(error)


def test_the_address_of_a_files_page_pulls_the_file() -> None:
    known = catalogue.load()
    page = "https://huggingface.co/a/b/blob/main/x.safetensors"
    assert pull_command.plan(known, [page], to="vae")[0].url == page.replace("/blob/", "/resolve/")


@pytest.mark.parametrize(
    ("secret", "expected"),
    [(json.dumps({"127.0.0.1": TOKEN}), None), ("not json", "must be a JSON object"), (None, "it wants a token")],
)
def test_tokens_come_from_the_deployments_secret(
    session: boto3.Session, web: Web, secret: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if secret is not None:
        session.client("secretsmanager").create_secret(Name=f"{DEPLOYMENT.name}-model-tokens", SecretString=secret)
    result = run(f"{web.url}/gated/{NAME}", "--to", "vae")
    if expected is None:
        assert result.exit_code == 0, result.exception
    else:
        assert isinstance(result.exception, ComfyeksError)
        assert expected in str(result.exception)
    assert TOKEN not in result.stdout + result.stderr + str(result.exception)


def test_memory_holds_a_few_parts_for_a_file_of_any_size(session: boto3.Session, web: Web) -> None:
    """Parts in hand are counted, not megabytes: benchmarks/models_pull.py measures those."""
    held: set[int] = set()
    most = 0
    lock = threading.Lock()
    big = safetensors("b", size=20 * PART)
    web.add("big.safetensors", big)
    store = ModelStore(session, BUCKET)
    make = store.multipart

    def counted(*arguments: Any) -> Any:
        upload = make(*arguments)
        put = upload.put

        def counting(number: int, data: memoryview) -> None:
            nonlocal most
            with lock:
                held.add(number)
                most = max(most, len(held))
            put(number, data)
            with lock:
                held.discard(number)

        upload.put = counting
        return upload

    store.multipart = counted  # type: ignore[method-assign]
    pull(store, Wanted(f"{web.url}/ok/big.safetensors", "vae", None), Tokens({}, dict), connections=2)
    assert 1 <= most <= 2
