"""MiniStack's CodeBuild."""

from __future__ import annotations

from typing import Any

from comfyeks.local.bridges import bridge

Answer = tuple[int, dict[str, str], Any]  # status, headers, JSON body

# Fields of a project that AWS returns as they were given.
_KEPT = ("cache", "logsConfig", "queuedTimeoutInMinutes", "concurrentBuildLimit", "vpcConfig", "fileSystemLocations")


@bridge(
    "codebuild-project-fields",
    "ministack",
    aws="Returns a project's cache, logs and queue settings; takes its ARN wherever it takes its name.",
    gap="Forgets them (Terraform plans to set them forever), and cannot delete by ARN (Terraform does).",
    needed_by="the image build (a later issue)",
)
def codebuild_project_fields() -> None:
    from ministack.services import codebuild

    shape, create, update, delete = (
        codebuild._project_shape,
        codebuild._create_project,
        codebuild._update_project,
        codebuild._delete_project,
    )

    def project_shape(project: dict[str, Any]) -> dict[str, Any]:
        return {**shape(project), **{key: project[key] for key in _KEPT if key in project}}

    def named(request: dict[str, Any]) -> dict[str, Any]:
        return {**request, "name": request.get("name", "").rpartition(":project/")[2]}

    def keeping(operation: Any) -> Any:
        def call(request: dict[str, Any]) -> Answer:
            request = named(request)
            answer: Answer = operation(request)
            if answer[0] != 200:
                return answer
            project = codebuild._projects[request["name"]]
            project.setdefault("queuedTimeoutInMinutes", 480)
            project.update({key: request[key] for key in _KEPT if key in request})
            kept: Answer = codebuild.json_response({"project": project_shape(project)})
            return kept

        return call

    def delete_project(request: dict[str, Any]) -> Answer:
        answer: Answer = delete(named(request))
        return answer

    codebuild._project_shape = project_shape
    codebuild._create_project, codebuild._update_project = keeping(create), keeping(update)
    codebuild._delete_project = delete_project
