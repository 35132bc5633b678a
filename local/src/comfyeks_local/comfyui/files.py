"""/view and /upload: files by name, with the server's rules for names."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfyeks_local.comfyui.folders import Folders

_ATTACHMENTS = {".svg", ".html", ".htm", ".js", ".mjs", ".css", ".xml"}


def _inside(folder: Path, path: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(folder)  # noqa: PTH100 - resolves "..", not symlinks


def view(folders: Folders, request: web.Request) -> web.StreamResponse:
    """The file of a result item. 400: bad name or type; 403: a subfolder outside the folder; 404: no such file."""
    name, folder = folders.annotated(request.query.get("filename", ""))
    if not name:
        return web.Response(status=404)
    if name.startswith("/") or ".." in name:
        return web.Response(status=400)
    folder = folder or folders.by_type(request.query.get("type", "output"))
    if folder is None:
        return web.Response(status=400)
    if not _inside(folder, folder / request.query.get("subfolder", "")):
        return web.Response(status=403)
    path = folder / request.query.get("subfolder", "") / Path(name).name
    if not path.is_file():
        return web.Response(status=404)
    disposition = f'filename="{path.name}"'
    channel = request.query.get("channel", "rgba")
    if "preview" in request.query:
        return _preview(path, request.query["preview"], channel)
    if channel in ("rgb", "a"):
        return _channel(path, channel)
    if path.suffix.lower() in _ATTACHMENTS and request.headers.get("Sec-Fetch-Dest") != "image":
        return web.FileResponse(
            path,
            headers={
                "Content-Disposition": f"attachment; {disposition}",
                "Content-Type": "application/octet-stream",
                "Cache-Control": "no-store",
            },
        )
    return web.FileResponse(path, headers={"Content-Disposition": disposition})


def _preview(path: Path, wish: str, channel: str) -> web.Response:
    wanted, *rest = wish.split(";")
    image_format = wanted if wanted in ("webp", "jpeg") and "a" not in channel.replace("rgba", "") else "webp"
    quality = int(rest[-1]) if rest and rest[-1].isdigit() else 90
    with Image.open(path) as image:
        buffer = io.BytesIO()
        (image.convert("RGB") if image_format == "jpeg" else image).save(buffer, image_format, quality=quality)
    return web.Response(
        body=buffer.getvalue(),
        content_type=f"image/{image_format}",
        headers={"Content-Disposition": f'filename="{path.name}"'},
    )


def _channel(path: Path, channel: str) -> web.Response:
    with Image.open(path) as image:
        if channel == "rgb":
            result = image.convert("RGB")
        else:
            result = Image.new("RGBA", image.size)
            result.putalpha(image.getchannel("A") if "A" in image.getbands() else Image.new("L", image.size, 255))
        buffer = io.BytesIO()
        result.save(buffer, "PNG")
    return web.Response(
        body=buffer.getvalue(), content_type="image/png", headers={"Content-Disposition": f'filename="{path.name}"'}
    )


async def upload(folders: Folders, request: web.Request, *, mask: bool) -> web.Response:
    """Store an uploaded file; answers with its name. A bad type or original_ref raises, which becomes a 500."""
    form = await request.post()
    part = form.get("image")
    if not isinstance(part, web.FileField) or not part.filename:
        return web.Response(status=400)
    kind = str(form.get("type", "input"))
    root = {"input": folders.input, "output": folders.output, "temp": folders.temp}[kind]
    subfolder = str(form.get("subfolder", ""))
    folder = root / os.path.normpath(subfolder)
    if not _inside(root, folder / part.filename):
        return web.Response(status=400)
    folder.mkdir(parents=True, exist_ok=True)
    data = part.file.read()
    name = part.filename
    if form.get("overwrite") not in ("true", "1"):
        name = _free_name(folder, name, data)
    if mask:
        refused = _write_masked(folders, json.loads(str(form["original_ref"])), data, folder / name)
        if refused is not None:
            return refused
    else:
        (folder / name).write_bytes(data)
    return web.json_response({"name": name, "subfolder": subfolder, "type": kind})


def _free_name(folder: Path, name: str, data: bytes) -> str:
    """`name`, or "name (1)" and so on if a file with other bytes already has that name."""
    candidate, number = name, 0
    while (folder / candidate).exists() and _digest((folder / candidate).read_bytes()) != _digest(data):
        number += 1
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - of the text, which may hold a folder
        candidate = f"{stem} ({number}){suffix}"
    return candidate


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _write_masked(folders: Folders, reference: dict[str, Any], mask: bytes, path: Path) -> web.Response | None:
    """Write the original with the mask as alpha. A missing original succeeds without a file, as on the server."""
    name, folder = folders.annotated(reference["filename"])
    if name.startswith("/") or ".." in name:
        return web.Response(status=400)
    folder = folder or folders.by_type(reference.get("type", "output"))
    if folder is None:
        return web.Response(status=400)
    original = folder / reference.get("subfolder", "") / name
    if not _inside(folder, original):
        return web.Response(status=403)
    if original.is_file():
        with Image.open(original) as opened, Image.open(io.BytesIO(mask)) as alpha:
            info = PngInfo()
            for key, value in getattr(opened, "text", {}).items():
                info.add_text(key, value)
            image = opened.convert("RGBA")
            image.putalpha(alpha.convert("RGBA").getchannel("A"))
            image.save(path, "PNG", pnginfo=info, compress_level=4)
    return None
