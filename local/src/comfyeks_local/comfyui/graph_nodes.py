"""The graph nodes of the stand-in: names, inputs, outputs and files as on the server, without the mathematics."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image, ImageOps

from comfyeks_local.comfyui import media
from comfyeks_local.comfyui.folders import Folders, next_counter

# An input as /object_info shows it: [TYPE, options]; a choice is [[choices], options] or ["COMBO", {"options": […]}].
Spec = list[Any]
InputSpec = Spec | Callable[[Folders], Spec]

SAMPLERS = [
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0",
    "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm",
    "lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "seeds_2",
    "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
]  # fmt: skip
SCHEDULERS = [
    "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic",
    "kl_optimal",
]  # fmt: skip
MAX_RESOLUTION = 16384
MAX_SEED = 0xFFFFFFFFFFFFFFFF
_PREVIEW_PIXELS = 128


class Context(Protocol):
    """What the executor provides to a running node."""

    folders: Folders
    step_seconds: float
    previews: bool
    temp_prefix: str

    @property
    def metadata(self) -> dict[str, str]:
        """The text to embed in files: `prompt` and each entry of extra_pnginfo, as JSON."""

    def progress(self, value: float, maximum: float, preview: tuple[str, bytes] | None = None) -> None:
        """Report a step with an optional (format, bytes) preview.

        Raises executor.InterruptProcessingException if a client interrupted the prompt.
        """


@dataclass(frozen=True)
class Outcome:
    results: tuple[Any, ...] = ()
    ui: dict[str, list[Any]] | None = None


@dataclass(frozen=True)
class GraphNode:
    """One class of graph node: its declaration for /object_info and validation, and the function that runs it."""

    name: str
    run: Callable[..., Outcome]
    required: Mapping[str, InputSpec]
    optional: Mapping[str, InputSpec] = field(default_factory=dict)
    returns: tuple[str, ...] = ()
    return_names: tuple[str, ...] = ()  # if other than the types
    category: str = "stand-in"
    output: bool = False
    # Returns what is wrong with literal inputs, or None. Replaces the check against the choices for `checked`.
    check: Callable[[Folders, dict[str, Any]], str | None] | None = None
    checked: tuple[str, ...] = ()
    # A part of the cache key, for nodes that read files.
    fingerprint: Callable[[Folders, dict[str, Any]], str] | None = None

    def inputs(self, folders: Folders) -> dict[str, dict[str, Spec]]:
        declared = {"required": self.required, "optional": self.optional}
        return {
            group: {name: spec(folders) if callable(spec) else spec for name, spec in inputs.items()}
            for group, inputs in declared.items()
            if inputs or group == "required"
        }

    def info(self, folders: Folders) -> dict[str, Any]:
        inputs = self.inputs(folders)
        return {
            "input": inputs,
            "input_order": {group: list(names) for group, names in inputs.items()},
            "is_input_list": False,
            "output": list(self.returns),
            "output_is_list": [False] * len(self.returns),
            "output_name": list(self.return_names or self.returns),
            "name": self.name,
            "display_name": self.name,
            "description": "",
            "python_module": "nodes",
            "category": self.category,
            "output_node": self.output,
        }


GRAPH_NODES: dict[str, GraphNode] = {}


def _graph_node(name: str, **declaration: Any) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    def register(run: Callable[..., Outcome]) -> Callable[..., Outcome]:
        GRAPH_NODES[name] = GraphNode(name=name, run=run, **declaration)
        return run

    return register


def _integer(default: int, low: int, high: int, **options: Any) -> Spec:
    return ["INT", {"default": default, "min": low, "max": high, **options}]


def _float(default: float, low: float, high: float, **options: Any) -> Spec:
    return ["FLOAT", {"default": default, "min": low, "max": high, **options}]


def _text(**options: Any) -> Spec:
    return ["STRING", options]


def _models(kind: str) -> Callable[[Folders], Spec]:
    return lambda folders: [folders.model_names(kind)]


def _vae_models(folders: Folders) -> Spec:
    return [[*folders.model_names("vae"), "pixel_space"]]


def _side(low: int = 16, *, step: int) -> Spec:
    """Width or height of a picture that is generated."""
    return _integer(1024, low, MAX_RESOLUTION, step=step)


def _combo(*options: str) -> Spec:
    """A choice in the form of the server's newer nodes."""
    return ["COMBO", {"options": list(options)}]


def _combo_of_models(kind: str) -> Callable[[Folders], Spec]:
    return lambda folders: _combo(*folders.model_names(kind))


_SEED = _integer(0, 0, MAX_SEED, control_after_generate=True)
_BATCH = _integer(1, 1, 4096)
_PREFIX = _text(default="ComfyUI")

# Values that travel along links ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """A MODEL, CLIP or VAE: the names of its files."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Conditioning:
    text: str


@dataclass(frozen=True)
class Latent:
    """A batch of `batch` pictures of width × height pixels."""

    width: int
    height: int
    batch: int = 1
    lines: tuple[str, ...] = ()

    def pictures(self) -> list[media.Picture]:
        numbered = self.batch > 1
        return [
            media.Picture(
                self.width, self.height, (*self.lines, f"{n + 1} of {self.batch}") if numbered else self.lines
            )
            for n in range(self.batch)
        ]


Images = list[Image.Image]


@dataclass(frozen=True)
class Video:
    frames: Images
    fps: float


@dataclass(frozen=True)
class Audio:
    seconds: float
    rate: int


# Loaders --------------------------------------------------------------------------------------------------------------


def _load(context: Context, kind: str, name: str) -> Weights:
    """Open a model file as its loader would. Raises the loader's errors for a missing or damaged file."""
    path = context.folders.model_path(kind, name)
    if path is None:
        raise FileNotFoundError(f"Model in folder '{kind}' with filename '{name}' not found.")
    if path.suffix in {".safetensors", ".sft"}:
        media.check_safetensors(path)
    else:
        with path.open("rb") as stream:
            stream.read(1)
    return Weights((name,))


@_graph_node(
    "CheckpointLoaderSimple",
    required={"ckpt_name": _models("checkpoints")},
    returns=("MODEL", "CLIP", "VAE"),
    category="loaders",
)
def _checkpoint_loader(context: Context, ckpt_name: str) -> Outcome:
    weights = _load(context, "checkpoints", ckpt_name)
    return Outcome((weights, weights, weights))


@_graph_node(
    "UNETLoader",
    required={
        "unet_name": _models("diffusion_models"),
        "weight_dtype": [["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"]],
    },
    returns=("MODEL",),
    category="model/loaders",
)
def _unet_loader(context: Context, unet_name: str, weight_dtype: str) -> Outcome:
    return Outcome((_load(context, "diffusion_models", unet_name),))


_CLIP_TYPES = [
    "stable_diffusion", "stable_cascade", "sd3", "stable_audio", "mochi", "ltxv", "pixart", "cosmos", "lumina2",
    "wan", "hidream", "chroma", "ace", "omnigen2", "qwen_image", "hunyuan_image", "flux2", "ovis",
    "longcat_image", "cogvideox", "lens", "pixeldit", "ideogram4", "boogu", "krea2", "joyimage", "mage",
    "minimax",
]  # fmt: skip
_DUAL_CLIP_TYPES = [
    "sdxl", "sd3", "flux", "hunyuan_video", "hidream", "hunyuan_image", "hunyuan_video_15", "kandinsky5",
    "kandinsky5_image", "ltxv", "newbie", "ace",
]  # fmt: skip


@_graph_node(
    "CLIPLoader",
    required={"clip_name": _models("text_encoders"), "type": [_CLIP_TYPES]},
    optional={"device": [["default", "cpu"], {"advanced": True}]},
    returns=("CLIP",),
    category="model/loaders",
)
def _clip_loader(context: Context, clip_name: str, type: str, device: str = "default") -> Outcome:  # noqa: A002
    return Outcome((_load(context, "text_encoders", clip_name),))


@_graph_node(
    "DualCLIPLoader",
    required={
        "clip_name1": _models("text_encoders"),
        "clip_name2": _models("text_encoders"),
        "type": [_DUAL_CLIP_TYPES],
    },
    optional={"device": [["default", "cpu"], {"advanced": True}]},
    returns=("CLIP",),
    category="model/loaders",
)
def _dual_clip_loader(
    context: Context,
    clip_name1: str,
    clip_name2: str,
    type: str,  # noqa: A002
    device: str = "default",
) -> Outcome:
    names = [name for clip in (clip_name1, clip_name2) for name in _load(context, "text_encoders", clip).names]
    return Outcome((Weights(tuple(names)),))


@_graph_node(
    "TripleCLIPLoader",
    required={f"clip_name{number}": _combo_of_models("text_encoders") for number in (1, 2, 3)},
    returns=("CLIP",),
    category="model/loaders",
)
def _triple_clip_loader(context: Context, clip_name1: str, clip_name2: str, clip_name3: str) -> Outcome:
    clips = [_load(context, "text_encoders", clip) for clip in (clip_name1, clip_name2, clip_name3)]
    return Outcome((Weights(tuple(name for clip in clips for name in clip.names)),))


@_graph_node("VAELoader", required={"vae_name": _vae_models}, returns=("VAE",), category="loaders")
def _vae_loader(context: Context, vae_name: str) -> Outcome:
    return Outcome((Weights(()) if vae_name == "pixel_space" else _load(context, "vae", vae_name),))


@_graph_node(
    "LoraLoader",
    required={
        "model": ["MODEL"],
        "clip": ["CLIP"],
        "lora_name": _models("loras"),
        "strength_model": _float(1, -100, 100, step=0.01),
        "strength_clip": _float(1, -100, 100, step=0.01),
    },
    returns=("MODEL", "CLIP"),
    category="loaders",
)
def _lora_loader(
    context: Context, model: Weights, clip: Weights, lora_name: str, strength_model: float, strength_clip: float
) -> Outcome:
    lora = _load(context, "loras", lora_name)
    return Outcome((Weights(model.names + lora.names), Weights(clip.names + lora.names)))


@_graph_node(
    "LoraLoaderModelOnly",
    required={"model": ["MODEL"], "lora_name": _models("loras"), "strength_model": _float(1, -100, 100, step=0.01)},
    returns=("MODEL",),
    category="loaders",
)
def _lora_loader_model_only(context: Context, model: Weights, lora_name: str, strength_model: float) -> Outcome:
    return Outcome((Weights(model.names + _load(context, "loras", lora_name).names),))


# Images in ------------------------------------------------------------------------------------------------------------


def _input_images(folders: Folders) -> Spec:
    names = sorted(path.name for path in folders.input.iterdir() if path.is_file()) if folders.input.is_dir() else []
    return [names, {"image_upload": True}]


def _input_path(folders: Folders, name: str) -> Path:
    file_name, folder = folders.annotated(name)
    return (folder or folders.input) / file_name


def _check_input_image(folders: Folders, inputs: dict[str, Any]) -> str | None:
    image = inputs.get("image")
    if isinstance(image, str) and not _input_path(folders, image).is_file():
        return f"Invalid image file: {image}"
    return None


@_graph_node(
    "LoadImage",
    required={"image": _input_images},
    returns=("IMAGE", "MASK"),
    category="image",
    check=_check_input_image,
    checked=("image",),
    fingerprint=lambda folders, inputs: hashlib.sha256(_input_path(folders, inputs["image"]).read_bytes()).hexdigest(),
)
def _load_image(context: Context, image: str) -> Outcome:
    with Image.open(_input_path(context.folders, image)) as opened:
        picture = ImageOps.exif_transpose(opened)
        mask = picture.getchannel("A") if "A" in picture.getbands() else Image.new("L", picture.size)
        return Outcome(([picture.convert("RGB")], mask))


@_graph_node(
    "LoadImageMask",
    required={"image": _input_images, "channel": [["alpha", "red", "green", "blue"]]},
    returns=("MASK",),
    category="mask",
    check=_check_input_image,
    checked=("image",),
    fingerprint=lambda folders, inputs: hashlib.sha256(_input_path(folders, inputs["image"]).read_bytes()).hexdigest(),
)
def _load_image_mask(context: Context, image: str, channel: str) -> Outcome:
    with Image.open(_input_path(context.folders, image)) as opened:
        mask = opened.convert("RGBA").getchannel(channel[0].upper())
        return Outcome((ImageOps.invert(mask) if channel == "alpha" else mask,))


@_graph_node("MaskToImage", required={"mask": ["MASK"]}, returns=("IMAGE",), category="mask")
def _mask_to_image(context: Context, mask: Image.Image) -> Outcome:
    return Outcome(([mask.convert("RGB")],))


def _input_videos(folders: Folders) -> Spec:
    return ["COMBO", {"options": _input_images(folders)[0], "video_upload": True}]


def _check_input_video(folders: Folders, inputs: dict[str, Any]) -> str | None:
    file = inputs.get("file")
    if isinstance(file, str) and not _input_path(folders, file).is_file():
        return f"Invalid video file: {file}"
    return None


@_graph_node(
    "LoadVideo",
    required={"file": _input_videos},
    returns=("VIDEO",),
    category="image/video",
    check=_check_input_video,
    checked=("file",),
    fingerprint=lambda folders, inputs: hashlib.sha256(_input_path(folders, inputs["file"]).read_bytes()).hexdigest(),
)
def _load_video(context: Context, file: str) -> Outcome:
    return Outcome((Video(*media.read_video(_input_path(context.folders, file))),))


@_graph_node(
    "EmptyImage",
    required={
        "width": _integer(512, 1, MAX_RESOLUTION, step=1),
        "height": _integer(512, 1, MAX_RESOLUTION, step=1),
        "batch_size": _BATCH,
        "color": _integer(0, 0, 0xFFFFFF, step=1, display="color"),
    },
    returns=("IMAGE",),
    category="image",
)
def _empty_image(context: Context, width: int, height: int, batch_size: int, color: int) -> Outcome:
    return Outcome(([Image.new("RGB", (width, height), f"#{color:06x}")] * batch_size,))


@_graph_node(
    "ImageScale",
    required={
        "image": ["IMAGE"],
        "upscale_method": [["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]],
        "width": _integer(512, 0, MAX_RESOLUTION, step=1),
        "height": _integer(512, 0, MAX_RESOLUTION, step=1),
        "crop": [["disabled", "center"]],
    },
    returns=("IMAGE",),
    category="image/upscaling",
)
def _image_scale(context: Context, image: Images, upscale_method: str, width: int, height: int, crop: str) -> Outcome:
    size = (width or image[0].width, height or image[0].height)
    return Outcome(([ImageOps.fit(frame, size) if crop == "center" else frame.resize(size) for frame in image],))


# Sampling -------------------------------------------------------------------------------------------------------------


@_graph_node(
    "CLIPTextEncode",
    required={"text": _text(multiline=True, dynamicPrompts=True), "clip": ["CLIP"]},
    returns=("CONDITIONING",),
    category="conditioning",
)
def _clip_text_encode(context: Context, text: str, clip: Weights) -> Outcome:
    return Outcome((Conditioning(text),))


def _empty_latent(context: Context, width: int, height: int, batch_size: int) -> Outcome:
    return Outcome((Latent(width, height, batch_size),))


for _name, _step in (("EmptyLatentImage", 8), ("EmptySD3LatentImage", 16)):
    GRAPH_NODES[_name] = GraphNode(
        _name,
        _empty_latent,
        {"width": _side(step=_step), "height": _side(step=_step), "batch_size": _BATCH},
        returns=("LATENT",),
        category="latent",
    )


def _sample(
    context: Context,
    latent: Latent,
    model: Weights,
    positive: Conditioning,
    negative: Conditioning,
    *,
    seed: int,
    steps: int,
    recipe: str,
) -> Outcome:
    lines = [positive.text]
    if negative.text:
        lines.append(f"not: {negative.text}")
    lines += [f"seed {seed}", recipe, " + ".join(model.names)]
    sampled = replace(latent, lines=(*latent.lines, *lines))
    context.progress(0, steps)
    for step in range(1, steps + 1):
        time.sleep(context.step_seconds)
        context.progress(step, steps, _preview(sampled, step, steps) if context.previews else None)
    return Outcome((sampled,))


def _preview(latent: Latent, step: int, steps: int) -> tuple[str, bytes]:
    side = min(_PREVIEW_PIXELS, latent.width), min(_PREVIEW_PIXELS, latent.height)
    buffer = io.BytesIO()
    media.Picture(*side, (f"step {step} of {steps}",)).draw().save(buffer, "JPEG")
    return "JPEG", buffer.getvalue()


_SAMPLING: dict[str, InputSpec] = {
    "steps": _integer(20, 1, 10000),
    "cfg": _float(8.0, 0.0, 100.0, step=0.1, round=0.01),
    "sampler_name": [SAMPLERS],
    "scheduler": [SCHEDULERS],
    "positive": ["CONDITIONING"],
    "negative": ["CONDITIONING"],
    "latent_image": ["LATENT"],
}


@_graph_node(
    "KSampler",
    required={"model": ["MODEL"], "seed": _SEED, **_SAMPLING, "denoise": _float(1.0, 0.0, 1.0, step=0.01)},
    returns=("LATENT",),
    category="sampling",
)
def _ksampler(
    context: Context,
    model: Weights,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    denoise: float,
) -> Outcome:
    return _sample(
        context,
        latent_image,
        model,
        positive,
        negative,
        seed=seed,
        steps=steps,
        recipe=f"{steps} steps, cfg {cfg:g}, {sampler_name} {scheduler}",
    )


@_graph_node(
    "KSamplerAdvanced",
    required={
        "model": ["MODEL"],
        "add_noise": [["enable", "disable"]],
        "noise_seed": _SEED,
        **_SAMPLING,
        "start_at_step": _integer(0, 0, 10000),
        "end_at_step": _integer(10000, 0, 10000),
        "return_with_leftover_noise": [["disable", "enable"]],
    },
    returns=("LATENT",),
    category="sampling",
)
def _ksampler_advanced(
    context: Context,
    model: Weights,
    add_noise: str,
    noise_seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    start_at_step: int,
    end_at_step: int,
    return_with_leftover_noise: str,
) -> Outcome:
    last = min(steps, end_at_step)
    return _sample(
        context,
        latent_image,
        model,
        positive,
        negative,
        seed=noise_seed,
        steps=max(0, last - start_at_step),
        recipe=f"steps {start_at_step} to {last}, cfg {cfg:g}, {sampler_name} {scheduler}",
    )


# Nodes around the sampler of newer model families ---------------------------------------------------------------------


def _shift(context: Context, model: Weights, shift: float) -> Outcome:
    return Outcome((model,))


for _name, _default in (("ModelSamplingSD3", 3.0), ("ModelSamplingAuraFlow", 1.73)):
    GRAPH_NODES[_name] = GraphNode(
        _name,
        _shift,
        {"model": ["MODEL"], "shift": _float(_default, 0.0, 100.0, step=0.01)},
        returns=("MODEL",),
        category="model/sampling",
    )


@_graph_node(
    "FluxGuidance",
    required={"conditioning": ["CONDITIONING"], "guidance": _float(3.5, 0.0, 100.0, step=0.1)},
    returns=("CONDITIONING",),
    category="model/conditioning/flux",
)
def _flux_guidance(context: Context, conditioning: Conditioning, guidance: float) -> Outcome:
    return Outcome((conditioning,))


@_graph_node(
    "ConditioningZeroOut",
    required={"conditioning": ["CONDITIONING"]},
    returns=("CONDITIONING",),
    category="conditioning",
)
def _conditioning_zero_out(context: Context, conditioning: Conditioning) -> Outcome:
    return Outcome((Conditioning(""),))


@_graph_node(
    "Wan22ImageToVideoLatent",
    required={
        "vae": ["VAE"],
        "width": _side(32, step=32),
        "height": _side(32, step=32),
        "length": _integer(49, 1, MAX_RESOLUTION, step=4),
        "batch_size": _BATCH,
    },
    optional={"start_image": ["IMAGE"]},
    returns=("LATENT",),
    category="conditioning/inpaint",
)
def _wan22_latent(
    context: Context,
    vae: Weights,
    width: int,
    height: int,
    length: int,
    batch_size: int,
    start_image: Images | None = None,
) -> Outcome:
    return Outcome((Latent(width, height, length * batch_size),))


@_graph_node(
    "EmptyLTXVLatentVideo",
    required={
        "width": _side(64, step=32),
        "height": _side(64, step=32),
        "length": _integer(97, 1, MAX_RESOLUTION, step=8),
        "batch_size": _BATCH,
    },
    returns=("LATENT",),
    category="model/latent/ltxv",
)
def _ltxv_latent(context: Context, width: int, height: int, length: int, batch_size: int) -> Outcome:
    return Outcome((Latent(width, height, length * batch_size),))


@_graph_node(
    "LTXVConditioning",
    required={
        "positive": ["CONDITIONING"],
        "negative": ["CONDITIONING"],
        "frame_rate": _float(25.0, 0.0, 1000.0, step=0.01),
    },
    returns=("CONDITIONING", "CONDITIONING"),
    return_names=("positive", "negative"),
    category="model/conditioning/ltxv",
)
def _ltxv_conditioning(context: Context, positive: Conditioning, negative: Conditioning, frame_rate: float) -> Outcome:
    return Outcome((positive, negative))


@_graph_node(
    "LTXVScheduler",
    required={
        "steps": _integer(20, 1, 10000),
        "max_shift": _float(2.05, 0.0, 100.0, step=0.01),
        "base_shift": _float(0.95, 0.0, 100.0, step=0.01),
        "stretch": ["BOOLEAN", {"default": True}],
        "terminal": _float(0.1, 0.0, 0.99, step=0.01),
    },
    optional={"latent": ["LATENT"]},
    returns=("SIGMAS",),
    category="sampling/schedulers",
)
def _ltxv_scheduler(
    context: Context,
    steps: int,
    max_shift: float,
    base_shift: float,
    stretch: bool,
    terminal: float,
    latent: Latent | None = None,
) -> Outcome:
    return Outcome((steps,))


@_graph_node(
    "KSamplerSelect", required={"sampler_name": _combo(*SAMPLERS)}, returns=("SAMPLER",), category="sampling/samplers"
)
def _ksampler_select(context: Context, sampler_name: str) -> Outcome:
    return Outcome((sampler_name,))


@_graph_node(
    "SamplerCustom",
    required={
        "model": ["MODEL"],
        "add_noise": ["BOOLEAN", {"default": True}],
        "noise_seed": _SEED,
        "cfg": _float(8.0, 0.0, 100.0, step=0.1, round=0.01),
        "positive": ["CONDITIONING"],
        "negative": ["CONDITIONING"],
        "sampler": ["SAMPLER"],
        "sigmas": ["SIGMAS"],
        "latent_image": ["LATENT"],
    },
    returns=("LATENT", "LATENT"),
    return_names=("output", "denoised_output"),
    category="sampling/custom_sampling",
)
def _sampler_custom(
    context: Context,
    model: Weights,
    add_noise: bool,
    noise_seed: int,
    cfg: float,
    positive: Conditioning,
    negative: Conditioning,
    sampler: str,
    sigmas: int,
    latent_image: Latent,
) -> Outcome:
    recipe = f"{sigmas} steps, cfg {cfg:g}, {sampler}"
    outcome = _sample(context, latent_image, model, positive, negative, seed=noise_seed, steps=sigmas, recipe=recipe)
    return Outcome(outcome.results * 2)


@_graph_node("VAEDecode", required={"samples": ["LATENT"], "vae": ["VAE"]}, returns=("IMAGE",), category="latent")
def _vae_decode(context: Context, samples: Latent, vae: Weights) -> Outcome:
    return Outcome(([picture.draw() for picture in samples.pictures()],))


@_graph_node("VAEEncode", required={"pixels": ["IMAGE"], "vae": ["VAE"]}, returns=("LATENT",), category="latent")
def _vae_encode(context: Context, pixels: Images, vae: Weights) -> Outcome:
    return Outcome((Latent(pixels[0].width // 8 * 8, pixels[0].height // 8 * 8, len(pixels)),))


# Results --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """Where a saving node writes: `folder`/`stem`_00001_.ext; clients see `subfolder`."""

    folder: Path
    stem: str
    subfolder: str
    counter: int
    type: str

    def name(self, index: int, suffix: str, end: str = "_") -> str:
        return f"{self.stem.replace('%batch_num%', str(index))}_{self.counter + index:05}{end}{suffix}"

    def item(self, name: str) -> dict[str, str]:
        return {"filename": name, "subfolder": self.subfolder, "type": self.type}


def _target(context: Context, prefix: str, size: tuple[int, int] = (0, 0), kind: str = "output") -> _Target:
    now = time.localtime()
    variables = {
        "width": size[0],
        "height": size[1],
        "year": now.tm_year,
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    }
    for variable, value in variables.items():
        prefix = prefix.replace(f"%{variable}%", str(value))
    root = context.folders.by_type(kind)
    assert root is not None
    subfolder, stem = os.path.split(os.path.normpath(prefix))
    folder = Path(os.path.abspath(root / subfolder))  # noqa: PTH100 - resolves "..", not symlinks, as the server does
    if not folder.is_relative_to(root):
        raise ValueError("**** ERROR: Saving image outside the output folder is not allowed.")
    folder.mkdir(parents=True, exist_ok=True)
    return _Target(folder, stem, subfolder, next_counter(folder, stem), kind)


def _save_png(context: Context, images: Images, target: _Target) -> Outcome:
    items = []
    for index, image in enumerate(images):
        name = target.name(index, ".png")
        media.write_png(target.folder / name, image, context.metadata)
        items.append(target.item(name))
    return Outcome((images,), ui={"images": items})


@_graph_node(
    "SaveImage",
    required={"images": ["IMAGE"], "filename_prefix": _PREFIX},
    returns=("IMAGE",),
    return_names=("images",),
    category="image",
    output=True,
)
def _save_image(context: Context, images: Images, filename_prefix: str = "ComfyUI") -> Outcome:
    return _save_png(context, images, _target(context, filename_prefix, images[0].size))


@_graph_node(
    "PreviewImage",
    required={"images": ["IMAGE"]},
    returns=("IMAGE",),
    return_names=("images",),
    category="image",
    output=True,
)
def _preview_image(context: Context, images: Images) -> Outcome:
    return _save_png(context, images, _target(context, f"ComfyUI_temp_{context.temp_prefix}", images[0].size, "temp"))


@_graph_node("SaveImageWebsocket", required={"images": ["IMAGE"]}, category="api/image", output=True)
def _save_image_websocket(context: Context, images: Images) -> Outcome:
    for index, image in enumerate(images, 1):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        context.progress(index, len(images), ("PNG", buffer.getvalue()))
    return Outcome()


@_graph_node(
    "SaveAnimatedWEBP",
    required={
        "images": ["IMAGE"],
        "filename_prefix": _PREFIX,
        "fps": _float(6.0, 0.01, 1000.0, step=0.01),
        "lossless": ["BOOLEAN", {"default": True}],
        "quality": _integer(80, 0, 100),
        "method": _combo("default", "fastest", "slowest"),
    },
    returns=("IMAGE",),
    return_names=("images",),
    category="image/animation",
    output=True,
)
def _save_animated_webp(
    context: Context, images: Images, filename_prefix: str, fps: float, lossless: bool, quality: int, method: str
) -> Outcome:
    target = _target(context, filename_prefix, images[0].size)
    name = target.name(0, ".webp")
    images[0].save(
        target.folder / name,
        save_all=True,
        append_images=images[1:],
        duration=int(1000 / fps),
        quality=quality,
        lossless=lossless,
        method={"default": 4, "fastest": 0, "slowest": 6}[method],
    )
    return Outcome((images,), ui={"images": [target.item(name)], "animated": [True]})


@_graph_node(
    "SaveWEBM",
    required={
        "images": ["IMAGE"],
        "filename_prefix": _PREFIX,
        "codec": _combo("vp9", "av1"),
        "fps": _float(24.0, 0.01, 1000.0, step=0.01),
        "crf": _float(32.0, 0.0, 63.0, step=1),
    },
    returns=("IMAGE",),
    return_names=("images",),
    category="image/video",
    output=True,
)
def _save_webm(context: Context, images: Images, filename_prefix: str, codec: str, fps: float, crf: float) -> Outcome:
    target = _target(context, filename_prefix, images[0].size)
    name = target.name(0, ".webm")
    encoder = {"vp9": "libvpx-vp9", "av1": "libsvtav1"}[codec]
    media.write_video(target.folder / name, images, fps, encoder, context.metadata)
    return Outcome((images,), ui={"images": [target.item(name)], "animated": [True]})


@_graph_node(
    "CreateVideo",
    required={"images": ["IMAGE"], "fps": _float(30.0, 1.0, 120.0, step=1.0)},
    optional={"audio": ["AUDIO"], "bit_depth": _integer(8, 8, 10, step=2)},
    returns=("VIDEO",),
    category="image/video",
)
def _create_video(
    context: Context, images: Images, fps: float, audio: Audio | None = None, bit_depth: int = 8
) -> Outcome:
    return Outcome((Video(images, fps),))


# A choice with further inputs for each option; a plain name of an option is accepted too.
_CONTAINER: Spec = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": key, "inputs": {}} for key in ("auto", "mp4")]}]
_CODEC: Spec = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": key, "inputs": {}} for key in ("auto", "h264")]}]


@_graph_node(
    "SaveVideo",
    required={"video": ["VIDEO"], "filename_prefix": _text(default="video/ComfyUI"), "format": _CONTAINER},
    optional={"codec": _CODEC},
    returns=("VIDEO",),
    return_names=("video",),
    category="image/video",
    output=True,
)
def _save_video(
    context: Context,
    video: Video,
    filename_prefix: str,
    format: str,  # noqa: A002
    codec: str = "auto",
) -> Outcome:
    target = _target(context, filename_prefix, video.frames[0].size)
    name = target.name(0, ".mp4")
    media.write_video(target.folder / name, video.frames, video.fps, "libx264", context.metadata)
    return Outcome((video,), ui={"images": [target.item(name)], "animated": [True]})


@_graph_node(
    "EmptyAudio",
    required={
        "duration": _float(60.0, 0.0, MAX_SEED, step=0.01),
        "sample_rate": _integer(44100, 1, 192000),
        "channels": _integer(2, 1, 2),
    },
    returns=("AUDIO",),
    category="audio",
)
def _empty_audio(context: Context, duration: float, sample_rate: int, channels: int) -> Outcome:
    return Outcome((Audio(duration, sample_rate),))


@_graph_node(
    "SaveAudio",
    required={"audio": ["AUDIO"], "filename_prefix": _text(default="audio/ComfyUI")},
    returns=("AUDIO",),
    return_names=("audio",),
    category="audio",
    output=True,
)
def _save_audio(context: Context, audio: Audio, filename_prefix: str) -> Outcome:
    target = _target(context, filename_prefix)
    name = target.name(0, ".flac", end="")  # only audio has no underscore there
    media.write_flac(target.folder / name, audio.seconds, audio.rate)
    return Outcome((audio,), ui={"audio": [target.item(name)]})


@_graph_node(
    "SaveLatent",
    required={"samples": ["LATENT"], "filename_prefix": _text(default="latents/ComfyUI")},
    returns=("LATENT",),
    return_names=("samples",),
    category="_for_testing",
    output=True,
)
def _save_latent(context: Context, samples: Latent, filename_prefix: str) -> Outcome:
    target = _target(context, filename_prefix, (samples.width, samples.height))
    name = target.name(0, ".latent")
    (target.folder / name).write_bytes(media.safetensors_bytes(context.metadata))
    return Outcome((samples,), ui={"latents": [target.item(name)]})


@_graph_node("PreviewAny", required={"source": ["*"]}, returns=("STRING",), category="utils", output=True)
def _preview_any(context: Context, source: Any) -> Outcome:
    if isinstance(source, Conditioning):
        source = source.text
    text = source if isinstance(source, str) else json.dumps(source, default=str)
    return Outcome((text,), ui={"text": [text]})


@_graph_node(
    "StandInSleep",
    required={"seconds": _float(1.0, 0.0, 3600.0), "ticks": _integer(1, 0, 10000)},
    optional={"image": ["IMAGE"]},
    returns=("IMAGE",),
)
def _sleep(context: Context, seconds: float, ticks: int, image: Images | None = None) -> Outcome:
    """Not a node of the real server: takes `seconds` and reports progress `ticks` times (0: ignores interrupts)."""
    for tick in range(1, ticks + 1):
        time.sleep(seconds / ticks)
        context.progress(tick, ticks)
    if not ticks:
        time.sleep(seconds)
    return Outcome((image or [Image.new("RGB", (64, 64))],))
