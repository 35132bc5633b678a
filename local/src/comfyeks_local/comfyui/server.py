"""The HTTP side of the stand-in: ComfyUI's routes, status codes and bodies."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from comfyeks_local.comfyui import files, graph, jobs
from comfyeks_local.comfyui.executor import Executor
from comfyeks_local.comfyui.folders import Folders
from comfyeks_local.comfyui.frontend import Frontend
from comfyeks_local.comfyui.graph_nodes import GRAPH_NODES
from comfyeks_local.comfyui.sockets import FEATURES, Sockets

COMFYUI_VERSION = "0.33.0"  # the release whose measured behaviour this server has
_SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
_NO_MODEL_KINDS = ("configs", "custom_nodes")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StandIn:
    """One server. Instances share nothing, so several can run in one process."""

    def __init__(self, options: argparse.Namespace, step_seconds: float | None = None) -> None:
        self.options = options
        self.folders = Folders(options)
        self.frontend = Frontend(self.folders.user)
        self.sockets = Sockets()
        if step_seconds is None:
            step_seconds = float(os.environ.get("COMFYUI_STANDIN_STEP_SECONDS", "0.02"))
        self.executor = Executor(
            self.folders,
            self.sockets.send,
            wants_metadata=self.sockets.wants_metadata,
            step_seconds=step_seconds,
            previews=options.preview_method != "none",
            cache=not options.cache_none,
            embed_metadata=not options.disable_metadata,
        )
        self.queue = self.executor.queue
        self._number = 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=round(self.options.max_upload_size * 2**20))
        for method, path, handler in self._routes():
            for full_path in (f"/api{path}", path):
                if method == "GET":
                    app.router.add_get(full_path, handler)  # answers HEAD as well
                else:
                    app.router.add_route(method, full_path, handler)
        for method, path, handler in self._jobs_routes():
            app.router.add_route(method, f"/api{path}", handler)
        # As on the server, static files are the last route: an unknown path is 404 for GET and 405 otherwise.
        app.router.add_get("/{path:.*}", self.frontend.static)
        app.on_startup.append(self._start)
        app.on_cleanup.append(self._stop)
        return app

    def _routes(self) -> list[tuple[str, str, Handler]]:
        return [
            ("GET", "/ws", self._websocket),
            ("GET", "/prompt", self._get_prompt),
            ("POST", "/prompt", self._post_prompt),
            ("GET", "/queue", self._get_queue),
            ("POST", "/queue", self._post_queue),
            ("GET", "/history", self._get_history),
            ("GET", "/history/{id}", self._get_history_of),
            ("POST", "/history", self._post_history),
            ("POST", "/interrupt", self._interrupt),
            ("POST", "/free", self._free),
            ("GET", "/view", self._view),
            ("POST", "/upload/image", self._upload_image),
            ("POST", "/upload/mask", self._upload_mask),
            ("GET", "/object_info", self._object_info),
            ("GET", "/object_info/{class}", self._object_info_of),
            ("GET", "/models", self._models),
            ("GET", "/models/{kind}", self._models_of),
            ("GET", "/experiment/models", self._model_folders),
            ("GET", "/experiment/models/{kind}", self._model_details),
            ("GET", "/embeddings", self._embeddings),
            ("GET", "/system_stats", self._system_stats),
            ("GET", "/features", self._features),
            ("GET", "/extensions", self._empty_list),
            *self.frontend.routes(),
        ]

    def _jobs_routes(self) -> list[tuple[str, str, Handler]]:
        return [
            ("GET", "/jobs", self._jobs),
            ("GET", "/jobs/{id}", self._job),
            ("POST", "/jobs/cancel", self._cancel_jobs),
            ("POST", "/jobs/{id}/cancel", self._cancel_job),
        ]

    async def _start(self, app: web.Application) -> None:
        self.folders.prepare()
        await self.sockets.start()
        self.executor.start()

    async def _stop(self, app: web.Application) -> None:
        await self.sockets.stop()
        self.executor.close()
        self.folders.clean_temp()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Add CORS headers if enabled; otherwise refuse requests of foreign web pages to a server on this machine."""
        cors = self.options.enable_cors_header
        if cors is None and (request.headers.get("Sec-Fetch-Site") == "cross-site" or _is_foreign_origin(request)):
            return web.Response(status=403)
        response = web.Response() if request.method == "OPTIONS" else await handler(request)
        if cors is not None:
            response.headers.update(
                {
                    "Access-Control-Allow-Origin": cors,
                    "Access-Control-Allow-Methods": "POST, GET, DELETE, PUT, OPTIONS, PATCH",
                    "Access-Control-Allow-Headers": "Content-Type, Authorization",
                    "Access-Control-Allow-Credentials": "true",
                }
            )
        return response

    # Prompts, queue, history ------------------------------------------------------------------------------------------

    def _status(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": self.queue.remaining()}}

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        running = (self.executor.client_id, self.executor.last_node_id)
        return await self.sockets.serve(request, {"status": self._status()}, running)

    async def _get_prompt(self, request: web.Request) -> web.Response:
        return web.json_response(self._status())

    async def _post_prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "number" in body:
            number = float(body["number"])
        else:
            number = -self._number if body.get("front") else self._number
            self._number += 1
        if "prompt" not in body:
            return _refusal(graph.problem("no_prompt", "No prompt provided", "No prompt provided"))
        prompt_id = body.get("prompt_id")
        if prompt_id is None:
            prompt_id = str(uuid.uuid4())
        elif not _is_canonical_uuid(prompt_id):
            return _refusal(
                graph.problem(
                    "invalid_prompt_id",
                    "Prompt ID must be a valid UUID",
                    "prompt_id must be a canonical lower-case UUID",
                )
            )
        validation = graph.validate(body["prompt"], self.folders, body.get("partial_execution_targets"))
        if validation.error is not None:
            return _refusal(validation.error, validation.node_errors)
        extra_data = {key: value for key, value in (body.get("extra_data") or {}).items() if key not in _SECRETS}
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        extra_data["create_time"] = int(time.time() * 1000)
        self.queue.put((number, prompt_id, body["prompt"], extra_data, validation.outputs))
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": validation.node_errors})

    async def _get_queue(self, request: web.Request) -> web.Response:
        running, pending = self.queue.current()
        return web.json_response({"queue_running": running, "queue_pending": pending})

    async def _post_queue(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("clear"):
            self.queue.clear()
        for prompt_id in body.get("delete", []):
            self.queue.delete(prompt_id)
        return web.Response()

    async def _get_history(self, request: web.Request) -> web.Response:
        entries = list(self.queue.history().items())
        if "max_items" in request.query:
            limit = int(request.query["max_items"])
            offset = int(request.query["offset"]) if "offset" in request.query else max(0, len(entries) - limit)
            entries = entries[offset : offset + limit]
        return web.json_response(dict(entries))

    async def _get_history_of(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["id"]
        entry = self.queue.history().get(prompt_id)
        return web.json_response({} if entry is None else {prompt_id: entry})

    async def _post_history(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("clear"):
            self.queue.forget()
        for prompt_id in body.get("delete", []):
            self.queue.forget(prompt_id)
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else {}
        self.executor.interrupt(body.get("prompt_id"))
        return web.Response()

    async def _free(self, request: web.Request) -> web.Response:
        await request.json()
        return web.Response()

    # Jobs -------------------------------------------------------------------------------------------------------------

    async def _jobs(self, request: web.Request) -> web.Response:
        query = request.query
        statuses = [status for status in query.get("status", "").lower().split(",") if status]
        by, order = query.get("sort_by", "created_at"), query.get("sort_order", "desc")
        unknown = [status for status in statuses if status not in jobs.STATUSES]
        if unknown:
            return _bad_request(
                f"Invalid status value(s): {', '.join(unknown)}. Valid values: {', '.join(jobs.STATUSES)}"
            )
        if by not in jobs.SORT_KEYS:
            return _bad_request(f"sort_by must be one of: {', '.join(jobs.SORT_KEYS)}")
        if order not in ("asc", "desc"):
            return _bad_request("sort_order must be 'asc' or 'desc'")
        try:
            limit = int(query["limit"]) if query.get("limit") else None
            offset = max(0, int(query.get("offset") or 0))
        except ValueError:
            return _bad_request("limit and offset must be integers")
        if limit is not None and limit <= 0:
            return _bad_request("limit must be a positive integer")
        found = [
            job
            for job in jobs.all_jobs(self.queue)
            if (not statuses or job["status"] in statuses)
            and query.get("workflow_id") in (None, "", job.get("workflow_id"))
        ]
        found = jobs.sort(found, by, descending=order == "desc")
        page = found[offset:] if limit is None else found[offset : offset + limit]
        return web.json_response(
            {
                "jobs": page,
                "pagination": {
                    "offset": offset,
                    "limit": limit,
                    "total": len(found),
                    "has_more": offset + len(page) < len(found),
                },
            }
        )

    async def _job(self, request: web.Request) -> web.Response:
        job = jobs.find(self.queue, request.match_info["id"])
        return web.json_response({"error": "Job not found"}, status=404) if job is None else web.json_response(job)

    def _cancel(self, prompt_id: str) -> bool:
        return self.queue.delete(prompt_id) or self.executor.interrupt(prompt_id)

    async def _cancel_job(self, request: web.Request) -> web.Response:
        return web.json_response({"cancelled": self._cancel(request.match_info["id"])})

    async def _cancel_jobs(self, request: web.Request) -> web.Response:
        ids = (await request.json()).get("job_ids", [])
        invalid = [job_id for job_id in ids if not _is_canonical_uuid(job_id)]
        if invalid:
            return web.json_response({"error": "Invalid job id", "invalid_ids": invalid}, status=400)
        return web.json_response({"cancelled": any([self._cancel(job_id) for job_id in ids])})  # noqa: C419 - all of them

    # Files ------------------------------------------------------------------------------------------------------------

    async def _view(self, request: web.Request) -> web.StreamResponse:
        return files.view(self.folders, request)

    async def _upload_image(self, request: web.Request) -> web.Response:
        return await files.upload(self.folders, request, mask=False)

    async def _upload_mask(self, request: web.Request) -> web.Response:
        return await files.upload(self.folders, request, mask=True)

    # Catalogue and machine --------------------------------------------------------------------------------------------

    async def _object_info(self, request: web.Request) -> web.Response:
        found = {}
        for name, node in GRAPH_NODES.items():
            try:
                found[name] = node.info(self.folders)
            except OSError:  # its model folder is missing: the node is omitted, as on the server
                continue
        return web.json_response(found)

    async def _object_info_of(self, request: web.Request) -> web.Response:
        node = GRAPH_NODES.get(request.match_info["class"])
        return web.json_response({} if node is None else {node.name: node.info(self.folders)})

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response(self.folders.kinds())

    async def _models_of(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        if kind not in self.folders.kinds():
            return web.Response(status=404)
        return web.json_response(self.folders.model_names(kind))

    async def _model_folders(self, request: web.Request) -> web.Response:
        return web.json_response(
            [
                {"name": kind, "folders": [str(path) for path in self.folders.paths(kind)]}
                for kind in self.folders.kinds()
                if kind not in _NO_MODEL_KINDS
            ]
        )

    async def _model_details(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        if kind not in self.folders.kinds() or kind in _NO_MODEL_KINDS:
            return web.Response(status=404)
        return web.json_response(self.folders.model_details(kind))

    async def _embeddings(self, request: web.Request) -> web.Response:
        return web.json_response([str(Path(name).with_suffix("")) for name in self.folders.model_names("embeddings")])

    async def _system_stats(self, request: web.Request) -> web.Response:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        return web.json_response(
            {
                "system": {
                    "os": sys.platform,
                    "ram_total": total,
                    "ram_free": free,
                    "comfyui_version": COMFYUI_VERSION,
                    "required_frontend_version": None,
                    "installed_templates_version": None,
                    "python_version": sys.version,
                    "pytorch_version": f"none (stand-in of comfyeks {version('comfyeks')})",
                    "embedded_python": False,
                    "deploy_environment": "local",
                    "argv": sys.argv,
                },
                "devices": [
                    {
                        "name": "cpu",
                        "type": "cpu",
                        "index": None,
                        "vram_total": total,
                        "vram_free": free,
                        "torch_vram_total": total,
                        "torch_vram_free": free,
                    }
                ],
            }
        )

    async def _features(self, request: web.Request) -> web.Response:
        return web.json_response({**FEATURES, "max_upload_size": round(self.options.max_upload_size * 2**20)})

    async def _empty_list(self, request: web.Request) -> web.Response:
        return web.json_response([])


def _refusal(error: graph.Problem, node_errors: dict[str, Any] | None = None) -> web.Response:
    return web.json_response({"error": error, "node_errors": node_errors or {}}, status=400)


def _bad_request(message: str) -> web.Response:
    return web.json_response({"error": message}, status=400)


def _is_canonical_uuid(text: Any) -> bool:
    try:
        return bool(str(uuid.UUID(text)) == text)
    except (ValueError, AttributeError, TypeError):
        return False


def _is_foreign_origin(request: web.Request) -> bool:
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if not host or not origin or not _is_loopback(urlsplit(f"//{host}").hostname):
        return False
    return bool(urlsplit(origin).netloc.lower() != host.lower())


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
