"""`comfyeks image`: build the image, print its tag."""

from __future__ import annotations

from typing import Annotated

import typer

from comfyeks.console import note
from comfyeks.deployment import current
from comfyeks.image import build as image_build
from comfyeks.image.build import CPU, CUDA
from comfyeks.options import Project, Region

app = typer.Typer(help="Build the container image with ComfyUI and its custom nodes.", no_args_is_help=True)

WithoutCuda = Annotated[
    bool, typer.Option("--cpu", help="Image without CUDA, for trying things out with ComfyUI's --cpu.")
]


@app.command()
def build(
    local: Annotated[
        bool, typer.Option("--local", help="Build with this machine's Docker instead of CodeBuild.")
    ] = False,
    cpu: WithoutCuda = False,
    project: Project = None,
    region: Region = None,
) -> None:
    """Build and push the image of image/, unless the registry has it. Prints its tag, which the chart's values use."""
    backend = CPU if cpu else CUDA
    wanted, target = image_build.tag(backend), current(project, region)
    if image_build.exists(target, wanted):
        note(f"{target.image_repository} has this image already")
    elif local:
        image_build.build_here(target, wanted, backend)
    else:
        image_build.build(target, wanted, backend)
    typer.echo(wanted)


@app.command()
def tag(cpu: WithoutCuda = False) -> None:
    """Print the tag of the image that image/ describes. Does not need AWS."""
    typer.echo(image_build.tag(CPU if cpu else CUDA))
