"""The server's command line: every flag that a pod may have; argparse refuses others."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

# Accepted and without effect here: they choose devices, number formats and kernels.
_IGNORED_SWITCHES = """
    auto-launch disable-auto-launch cuda-malloc disable-cuda-malloc force-fp32 force-fp16 fp32-unet fp64-unet bf16-unet
    fp16-unet fp8_e4m3fn-unet fp8_e5m2-unet fp8_e8m0fnu-unet fp16-vae fp32-vae bf16-vae cpu-vae fp8_e4m3fn-text-enc
    fp8_e5m2-text-enc fp16-text-enc fp32-text-enc bf16-text-enc force-channels-last disable-ipex-optimize
    supports-fp8-compute use-split-cross-attention use-quad-cross-attention use-pytorch-cross-attention
    use-sage-attention use-flash-attention disable-xformers force-upcast-attention dont-upcast-attention gpu-only
    highvram normalvram lowvram novram cpu disable-async-offload force-non-blocking disable-smart-memory
    disable-dynamic-vram disable-pinned-memory deterministic mmap-torch-files disable-mmap dont-print-server
    quick-test-for-ci windows-standalone-build disable-all-custom-nodes disable-api-nodes disable-partner-nodes offline
    multi-user enable-compress-response-body enable-assets disable-assets enable-manager cache-classic log-stdout
"""
_IGNORED_VALUES = """
    cuda-device oneapi-device-selector preview-size cache-lru cache-ram reserve-vram default-hashing-function
    front-end-version comfy-api-base
"""


def _existing_directory(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        problem = "is not a directory" if path.exists() else "does not exist"
        raise argparse.ArgumentTypeError(f"The path '{text}' {problem}.")
    if not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"You do not have read permissions for '{text}'.")
    return path


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="main.py", description="Stand-in for ComfyUI on machines without a GPU.")
    p.add_argument("--listen", default="127.0.0.1", nargs="?", const="0.0.0.0,::", metavar="IP")
    p.add_argument("--port", type=int, default=8188)
    p.add_argument("--tls-keyfile")
    p.add_argument("--tls-certfile")
    p.add_argument("--enable-cors-header", nargs="?", const="*", metavar="ORIGIN")
    p.add_argument("--max-upload-size", type=float, default=100, metavar="MB")
    p.add_argument("--base-directory", type=Path)
    p.add_argument("--models-directory", type=_existing_directory)
    p.add_argument("--input-directory", type=Path)
    p.add_argument("--output-directory", type=Path)
    p.add_argument("--temp-directory", type=Path, help="files go to its folder 'temp', which is emptied at start")
    p.add_argument("--user-directory", type=_existing_directory)
    p.add_argument("--extra-model-paths-config", type=Path, nargs="+", action="append", default=[])
    p.add_argument("--database-url")
    p.add_argument("--preview-method", choices=["none", "auto", "latent2rgb", "taesd"], default="none")
    p.add_argument("--cache-none", action="store_true")
    p.add_argument("--disable-metadata", action="store_true")
    p.add_argument("--whitelist-custom-nodes", nargs="+", default=[])
    p.add_argument(
        "--verbose", nargs="?", const="DEBUG", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    )
    p.add_argument("--fast", nargs="*")
    p.add_argument("--directml", nargs="?", type=int, const=-1)
    p.add_argument("--async-offload", nargs="?", type=int, const=2)
    p.add_argument("--front-end-root", type=_existing_directory)
    for name in _IGNORED_SWITCHES.split():
        p.add_argument(f"--{name}", action="store_true")
    for name in _IGNORED_VALUES.split():
        p.add_argument(f"--{name}")
    return p
