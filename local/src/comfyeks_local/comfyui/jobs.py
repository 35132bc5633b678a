"""The jobs API's view of queue and history."""

from __future__ import annotations

from typing import Any

from comfyeks_local.comfyui.executor import Item, PromptQueue

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
SORT_KEYS = ("created_at", "execution_duration")
_THREE_D = (".obj", ".fbx", ".gltf", ".glb")
_END_EVENTS = ("execution_success", "execution_error", "execution_interrupted")
Job = dict[str, Any]


def all_jobs(queue: PromptQueue) -> list[Job]:
    """Running, pending and finished jobs, without their outputs."""
    running, pending = queue.current()
    return [
        *(_waiting(item, "in_progress") for item in running),
        *(_waiting(item, "pending") for item in pending),
        *(_finished(entry) for entry in queue.history().values()),
    ]


def find(queue: PromptQueue, prompt_id: str) -> Job | None:
    """One job with all its fields, or None if the server does not know it."""
    entry = queue.history().get(prompt_id)
    if entry is not None:
        _, _, graph, extra_data, _ = entry["prompt"]
        return {
            **_finished(entry),
            "outputs": entry["outputs"],
            "execution_status": entry["status"],
            "workflow": {"prompt": graph, "extra_data": extra_data},
        }
    running, pending = queue.current()
    for items, status in ((running, "in_progress"), (pending, "pending")):
        for item in items:
            if item[1] == prompt_id:
                return _waiting(item, status)
    return None


def sort(jobs: list[Job], by: str, *, descending: bool) -> list[Job]:
    """The jobs in the order of one of SORT_KEYS."""

    def duration(job: Job) -> int:
        end = job.get("execution_end_time")
        return int(end - job["execution_start_time"]) if end else 0

    def created(job: Job) -> int:
        return int(job.get("create_time") or 0)

    return sorted(jobs, key=duration if by == "execution_duration" else created, reverse=descending)


def _common(item: Item | list[Any], status: str) -> Job:
    extra_data = item[3]
    workflow = extra_data.get("extra_pnginfo", {}).get("workflow", {})
    return {
        "id": item[1],
        "status": status,
        "priority": item[0],
        "create_time": extra_data.get("create_time"),
        "workflow_id": workflow.get("id"),
    }


def _waiting(item: Item, status: str) -> Job:
    return _pruned({**_common(item, status), "outputs_count": 0})


def _finished(entry: dict[str, Any]) -> Job:
    times = {event: data["timestamp"] for event, data in entry["status"]["messages"]}
    errors = [data for event, data in entry["status"]["messages"] if event == "execution_error"]
    if entry["status"]["completed"]:
        status = "completed"
    else:
        status = "cancelled" if "execution_interrupted" in times else "failed"
    items = [
        {**item, "nodeId": node_id, "mediaType": kind}
        for node_id, output in entry["outputs"].items()
        for kind, values in output.items()
        if kind != "animated"
        for item in values
        if isinstance(item, dict)
    ]
    previewable = [
        item
        for item in items
        if item["mediaType"] in ("images", "video", "audio") or item["filename"].lower().endswith(_THREE_D)
    ]
    preview = next((item for item in previewable if item["type"] == "output"), previewable[0] if previewable else None)
    return _pruned(
        {
            **_common(entry["prompt"], status),
            "execution_start_time": times.get("execution_start"),
            "execution_end_time": next((times[event] for event in _END_EVENTS if event in times), None),
            "execution_error": errors[0] if errors else None,
            "outputs_count": len(items),
            "previewable_outputs_count": len(previewable),
            "preview_output": preview,
        }
    )


def _pruned(job: Job) -> Job:
    return {key: value for key, value in job.items() if value is not None}
