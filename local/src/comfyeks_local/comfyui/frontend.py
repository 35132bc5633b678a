"""Routes that the front end in the browser needs besides the API: its own files, and the data of its user.

The front end is the real one, in the release that the image has (PyPI: comfyui-frontend-package). Without that package
a page explains how to install it.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from aiohttp import web

_NO_FRONT_END = (
    "<!doctype html><title>ComfyUI stand-in</title><p>This is the API of comfyeks' stand-in for ComfyUI. The page "
    "needs the package comfyui-frontend-package, which <code>make setup</code> installs."
)
# For a new user the page would open the list of templates, which this server does not have.
_DEFAULTS = {"Comfy.TutorialCompleted": True}
# The page requests these when it starts; a server without custom nodes and templates answers the same.
_EMPTY: dict[str, Any] = {
    "/i18n": {},
    "/workflow_templates": {},
    "/global_subgraphs": {},
    "/node_replacements": {},
    "/internal/logs/raw": {"entries": [], "size": {"cols": 80, "rows": 24}},
}


def static_files() -> Path | None:
    """The folder of the front end's files, or None if the package is not installed."""
    found = importlib.util.find_spec("comfyui_frontend_package")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "static"


class Frontend:
    """Routes of the page. `user` is the folder of the one user's settings and workflows."""

    def __init__(self, user: Path) -> None:
        self._static = static_files()
        self._user = user / "default"

    def routes(self) -> list[tuple[str, str, Any]]:
        def answer(data: Any) -> Any:
            async def handler(request: web.Request) -> web.Response:
                return web.json_response(data)

            return handler

        return [
            ("GET", "/", self._index),
            ("GET", "/users", answer({"storage": "server", "migrated": True})),
            ("GET", "/settings", self._get_settings),
            ("POST", "/settings", self._post_settings),
            ("GET", "/settings/{id}", self._get_setting),
            ("POST", "/settings/{id}", self._post_setting),
            ("GET", "/userdata", self._list_user_data),
            ("GET", "/userdata/{file}", self._get_user_data),
            ("POST", "/userdata/{file}", self._post_user_data),
            ("DELETE", "/userdata/{file}", self._delete_user_data),
            *(("GET", path, answer(data)) for path, data in _EMPTY.items()),
        ]

    async def static(self, request: web.Request) -> web.StreamResponse:
        """The file at any other path, or 404."""
        if self._static is not None:
            path = (self._static / request.match_info["path"]).resolve()
            if path.is_relative_to(self._static) and path.is_file():
                return web.FileResponse(path)
        return web.Response(status=404, text="404: Not Found")

    async def _index(self, request: web.Request) -> web.StreamResponse:
        if self._static is None:
            return web.Response(text=_NO_FRONT_END, content_type="text/html")
        return web.FileResponse(self._static / "index.html", headers={"Cache-Control": "no-cache"})

    # Settings ---------------------------------------------------------------------------------------------------------

    @property
    def _settings_file(self) -> Path:
        return self._user / "comfy.settings.json"

    def _settings(self) -> dict[str, Any]:
        try:
            settings: dict[str, Any] = json.loads(self._settings_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            settings = {}
        return {**_DEFAULTS, **settings}

    def _change_settings(self, changes: dict[str, Any]) -> web.Response:
        self._user.mkdir(parents=True, exist_ok=True)
        self._settings_file.write_text(json.dumps({**self._settings(), **changes}, indent=4), encoding="utf-8")
        return web.Response()

    async def _get_settings(self, request: web.Request) -> web.Response:
        return web.json_response(self._settings())

    async def _post_settings(self, request: web.Request) -> web.Response:
        return self._change_settings(await request.json())

    async def _get_setting(self, request: web.Request) -> web.Response:
        return web.json_response(self._settings().get(request.match_info["id"]))

    async def _post_setting(self, request: web.Request) -> web.Response:
        return self._change_settings({request.match_info["id"]: await request.json()})

    # Files of the user: workflows, templates --------------------------------------------------------------------------

    def _user_path(self, name: str) -> Path:
        path = (self._user / name).resolve()
        if not path.is_relative_to(self._user.resolve()):
            raise web.HTTPForbidden
        return path

    async def _list_user_data(self, request: web.Request) -> web.Response:
        query = request.query
        if not query.get("dir"):
            return web.Response(status=400, text="Directory not provided")
        folder = self._user_path(query["dir"])
        if not folder.is_dir():
            return web.Response(status=404, text="Directory not found")
        pattern = "**/*" if query.get("recurse", "").lower() == "true" else "*"
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        if query.get("full_info", "").lower() == "true":
            return web.json_response([_info(path, folder) for path in files])
        return web.json_response([path.relative_to(folder).as_posix() for path in files])

    async def _get_user_data(self, request: web.Request) -> web.StreamResponse:
        path = self._user_path(request.match_info["file"])
        return web.FileResponse(path) if path.is_file() else web.Response(status=404)

    async def _post_user_data(self, request: web.Request) -> web.Response:
        path = self._user_path(request.match_info["file"])
        if request.query.get("overwrite") == "false" and path.exists():
            return web.Response(status=409, text="File already exists")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(await request.read())
        full = request.query.get("full_info", "").lower() == "true"
        return web.json_response(_info(path, self._user) if full else path.relative_to(self._user).as_posix())

    async def _delete_user_data(self, request: web.Request) -> web.Response:
        path = self._user_path(request.match_info["file"])
        if not path.is_file():
            return web.Response(status=404)
        path.unlink()
        return web.Response(status=204)


def _info(path: Path, folder: Path) -> dict[str, Any]:
    stat = path.stat()
    modified, created = (int(seconds * 1000) for seconds in (stat.st_mtime, stat.st_ctime))
    name = path.relative_to(folder).as_posix()
    return {"path": name, "size": stat.st_size, "modified": modified, "created": created}
