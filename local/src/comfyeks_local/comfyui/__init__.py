"""A stand-in for ComfyUI, for machines without a GPU: `python -m comfyeks_local.comfyui ARGS`.

It takes the server's own command-line flags, speaks its HTTP and websocket API, lists models from the same folders,
answers errors with the same bodies, and writes real PNG, WEBP, mp4, webm and flac files where the server would. Its
page is ComfyUI's real front end. So the client, the pod's arguments and mounts, the uploader and the model sync can be
tested end to end without a GPU.

What it cannot show:
- pictures: prompt, seed and model name are *drawn* on a generated background, nothing is diffused;
- speed and memory: a step takes COMFYUI_STANDIN_STEP_SECONDS (default 0.02), whatever the model or size;
- model files: only the header of a `.safetensors` file is checked, its weights are never read; other formats are only
  opened;
- most of ComfyUI's about 900 graph nodes (`graph_nodes.GRAPH_NODES` has those here), custom nodes, subgraphs, partial
  execution inside loops, API nodes, assets, `--multi-user`;
- the exact wording of a few validation details that no program parses.
"""
