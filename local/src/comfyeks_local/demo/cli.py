"""`comfyeks demo`: chooses the form of the demo and cleans up at its end."""

from __future__ import annotations

from typing import Annotated

import typer

from comfyeks.console import note
from comfyeks.errors import ComfyeksError, OperationError
from comfyeks.signals import exit_code, termination_as_interrupt
from comfyeks_local.cluster import binaries
from comfyeks_local.demo.base import HOME, Demo
from comfyeks_local.demo.short import ShortDemo
from comfyeks_local.demo.with_cluster import ClusterDemo


def run(
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running afterwards.")] = False,
    cluster: Annotated[
        bool | None,
        typer.Option(
            "--cluster/--no-cluster",
            help="With a real Kubernetes control plane and Karpenter; --cluster builds them if they are missing. "
            "Default: with them if they are already built.",
        ),
    ] = None,
) -> None:
    """Run the project end to end on this machine: upload a model, get an image. Needs no AWS account and no cluster."""
    demo = chosen(cluster)
    done = False
    try:
        with termination_as_interrupt():
            try:
                demo.keep = keep
                demo.run()
                demo.summary(kept=keep)
                done = True
            finally:
                if not (keep and done):
                    demo.tear_down()
    except ComfyeksError as error:
        raise OperationError(f"{error}\nlogs: {HOME}") from error
    except KeyboardInterrupt as signalled:
        note(f"interrupted; everything was removed. Logs: {HOME}")
        raise typer.Exit(exit_code(signalled)) from None


def chosen(cluster: bool | None) -> Demo:
    """The demo with a cluster or the short one; builds the programs of the former only if `cluster` is true."""
    if cluster is False:
        return ShortDemo()
    missing = [program.name for program in binaries.missing()]
    if missing and cluster is None:
        note(
            f"the short form, without Kubernetes, because these are not built: {', '.join(missing)}. "
            f"`make demo CLUSTER=yes` builds them once (about {binaries.BUILD_MINUTES} minutes on two idle cores)"
        )
        return ShortDemo()
    return ClusterDemo(binaries.build(note))
