"""Bridges for CodeBuild, which MiniStack serves."""

from __future__ import annotations

from typing import Any

from comfyeks_local.emulators.bridges import bridge

Answer = tuple[int, dict[str, str], Any]  # status, headers, JSON body

DEFAULTS = {
    "cache": {"type": "NO_CACHE"},
    "logsConfig": {"cloudWatchLogs": {"status": "ENABLED"}, "s3Logs": {"status": "DISABLED"}},
    "queuedTimeoutInMinutes": 480,
}


@bridge(
    "codebuild-project-settings",
    "ministack",
    aws="Keeps a project's logs, cache and queue time, with defaults, and takes its ARN in place of its name.",
    gap="Drops them, so every plan of Terraform sets them again; does not find a project by its ARN.",
    needed_by="a second `comfyeks infra apply` without changes, `comfyeks infra destroy`",
)
def codebuild_project_settings() -> None:
    from ministack.services import codebuild

    shape = codebuild._project_shape
    create, update, delete = codebuild._create_project, codebuild._update_project, codebuild._delete_project

    def project_shape(project: dict[str, Any]) -> dict[str, Any]:
        return {**shape(project), **{key: project.get(key, default) for key, default in DEFAULTS.items()}}

    def store(answer: Answer, data: dict[str, Any]) -> Answer:
        if answer[0] != 200:
            return answer
        project = codebuild._projects[data["name"]]
        project.update({key: data[key] for key in DEFAULTS if key in data})
        kept: Answer = codebuild.json_response({"project": project_shape(project)})
        return kept

    def create_project(data: dict[str, Any]) -> Answer:
        return store(create(data), data)

    def update_project(data: dict[str, Any]) -> Answer:
        named = {**data, "name": _name(data)}
        return store(update(named), named)

    def delete_project(data: dict[str, Any]) -> Answer:
        answer: Answer = delete({**data, "name": _name(data)})
        return answer

    codebuild._project_shape = project_shape
    codebuild._create_project, codebuild._update_project = create_project, update_project
    codebuild._delete_project = delete_project


def _name(data: dict[str, Any]) -> str:
    name: str = data.get("name", "")
    return name.rpartition(":project/")[2]
