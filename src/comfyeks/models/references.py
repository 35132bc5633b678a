"""The model files that a workflow names, and the folders in which its loaders look for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Loader → input → folder below models/, for ComfyUI's own nodes. Read from ComfyUI 0.33 with a file in each folder.
LOADERS: dict[str, dict[str, str]] = {
    "AudioEncoderLoader": {"audio_encoder_name": "audio_encoders"},
    "CheckpointLoaderSimple": {"ckpt_name": "checkpoints"},
    "CLIPLoader": {"clip_name": "text_encoders"},
    "CLIPVisionLoader": {"clip_name": "clip_vision"},
    "ControlNetLoader": {"control_net_name": "controlnet"},
    "CreateHookLora": {"lora_name": "loras"},
    "CreateHookLoraModelOnly": {"lora_name": "loras"},
    "CreateHookModelAsLora": {"ckpt_name": "checkpoints"},
    "CreateHookModelAsLoraModelOnly": {"ckpt_name": "checkpoints"},
    "DiffControlNetLoader": {"control_net_name": "controlnet"},
    "DualCLIPLoader": {"clip_name1": "text_encoders", "clip_name2": "text_encoders"},
    "FrameInterpolationModelLoader": {"model_name": "frame_interpolation"},
    "GLIGENLoader": {"gligen_name": "gligen"},
    "HypernetworkLoader": {"hypernetwork_name": "hypernetworks"},
    "ImageOnlyCheckpointLoader": {"ckpt_name": "checkpoints"},
    "LatentUpscaleModelLoader": {"model_name": "latent_upscale_models"},
    "LoadBackgroundRemovalModel": {"bg_removal_name": "background_removal"},
    "LoadDA3Model": {"model_name": "geometry_estimation"},
    "LoadMediaPipeFaceLandmarker": {"model_name": "detection"},
    "LoadMoGeModel": {"model_name": "geometry_estimation"},
    "LoraLoader": {"lora_name": "loras"},
    "LoraLoaderBypass": {"lora_name": "loras"},
    "LoraLoaderBypassModelOnly": {"lora_name": "loras"},
    "LoraLoaderModelOnly": {"lora_name": "loras"},
    "LTXAVTextEncoderLoader": {"text_encoder": "text_encoders", "ckpt_name": "checkpoints"},
    "LTXVAudioVAELoader": {"ckpt_name": "checkpoints"},
    "ModelPatchLoader": {"name": "model_patches"},
    "OpticalFlowLoader": {"model_name": "optical_flow"},
    "PhotoMakerLoader": {"photomaker_model_name": "photomaker"},
    "QuadrupleCLIPLoader": {f"clip_name{number}": "text_encoders" for number in range(1, 5)},
    "StyleModelLoader": {"style_model_name": "style_models"},
    "TripleCLIPLoader": {f"clip_name{number}": "text_encoders" for number in range(1, 4)},
    "unCLIPCheckpointLoader": {"ckpt_name": "checkpoints"},
    "UNETLoader": {"unet_name": "diffusion_models"},
    "UpscaleModelLoader": {"model_name": "upscale_models"},
    "VAELoader": {"vae_name": "vae"},
}
# Choices of VAELoader that are not files.
_NO_FILES = ("pixel_space", "taesd", "taesdxl", "taesd3", "taef1", "taef2")


@dataclass(frozen=True)
class Reference:
    """Node `node_id` loads `models/<folder>/<file>`."""

    node_id: str
    input: str
    folder: str
    file: str

    @property
    def key(self) -> str:
        return f"{self.folder}/{self.file}"


def references(workflow: Mapping[str, Mapping[str, Any]]) -> Iterator[Reference]:
    """Every model file that a loader of an API-format workflow names."""
    for node_id, node in workflow.items():
        for key, folder in LOADERS.get(node["class_type"], {}).items():
            file = node["inputs"].get(key)
            if isinstance(file, str) and file not in _NO_FILES:
                yield Reference(node_id, key, folder, file)
