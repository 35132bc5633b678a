"""Which keys of the models bucket are models: the table that the node program and the Lambda must agree on.

The rule: `<folder>/<path...>`, so at least two segments; no segment is empty, `.`, `..` or starts with a dot; no
control character (Unicode category Cc) anywhere. A trailing slash is an empty last segment. Both components have their
own few lines of code for it, because neither may import the other; this table keeps them equal.
"""

from typing import NamedTuple


class KeyCase(NamedTuple):
    key: str
    is_model: bool
    why: str


MODEL_KEYS: list[KeyCase] = [
    KeyCase("checkpoints/sdxl.safetensors", True, "the ordinary case"),
    KeyCase("loras/style/anime/v3.safetensors", True, "folders may nest"),
    KeyCase("loras/with space.safetensors", True, "spaces are legal"),
    KeyCase("loras/ leading and trailing ", True, "spaces at the ends are part of the name"),
    KeyCase("loras/a+b.safetensors", True, "a plus is a plus once the event is decoded"),
    KeyCase("loras/100%25.safetensors", True, "a percent sequence in the key itself is not decoded a second time"),
    KeyCase("loras/[brackets] (round) {curly}.safetensors", True, "brackets are not a glob"),
    KeyCase("loras/star*question?.safetensors", True, "wildcards are letters here"),
    KeyCase("loras/中文模型.safetensors", True, "other alphabets"),
    KeyCase("loras/e\u0301clair.safetensors", True, "a decomposed accent stays as it is"),
    KeyCase("loras/🦊.safetensors", True, "beyond the basic plane"),
    KeyCase("loras/line\u2028separator", True, "a line separator is not a control character (category Zl)"),
    KeyCase("vae/model..v2", True, "two dots inside a name are not a parent folder"),
    KeyCase("vae/...", False, "starts with a dot"),
    KeyCase("vae/name.", True, "a dot at the end is legal"),
    KeyCase("checkpoints/$(reboot).safetensors", True, "text that a shell would run is only a name"),
    KeyCase("checkpoints/`id`;rm -rf ~ & 'x' \"y\" | z", True, "quotes and operators are only a name"),
    KeyCase("checkpoints/back\\slash", True, "a backslash is not a separator on Linux"),
    KeyCase("checkpoints/-rf", True, "a leading dash is legal: paths are never bare arguments"),
    KeyCase("checkpoints/README.md", True, "any file type: the layout decides, not the extension"),
    KeyCase("~/file", True, "a tilde is a folder name like any other"),
    KeyCase("C:/file", True, "a drive letter is a folder name like any other"),
    KeyCase("", False, "no key at all"),
    KeyCase("sdxl.safetensors", False, "no folder: ComfyUI would not know what it is"),
    KeyCase("中文模型.safetensors", False, "no folder, in any alphabet"),
    KeyCase("checkpoints/", False, "folder marker"),
    KeyCase("checkpoints/sub/", False, "nested folder marker"),
    KeyCase("/", False, "only a separator"),
    KeyCase("/checkpoints/a", False, "empty first segment: an absolute path"),
    KeyCase("checkpoints//a", False, "empty segment"),
    KeyCase("../etc/passwd", False, "leaves the models folder"),
    KeyCase("checkpoints/../../etc/cron.d/x", False, "leaves the models folder further down"),
    KeyCase("checkpoints/..", False, "ends in the parent folder"),
    KeyCase("./checkpoints/a", False, "a second spelling of another key's path"),
    KeyCase("checkpoints/./a", False, "a second spelling of another key's path, further down"),
    KeyCase(".comfyui-model-sync/manifest.json", False, "the sync's own folder"),
    KeyCase(".git/config", False, "hidden folder"),
    KeyCase("checkpoints/.DS_Store", False, "hidden file"),
    KeyCase("checkpoints/.cache/a", False, "hidden folder further down"),
    KeyCase("checkpoints/a\nb", False, "newline: could end a line in a command file"),
    KeyCase("checkpoints/a\r", False, "carriage return"),
    KeyCase("checkpoints/a\tb", False, "tab"),
    KeyCase("checkpoints/a\x00b", False, "NUL"),
    KeyCase("check\x1bpoints/a", False, "escape in a folder name: would control the operator's terminal"),
    KeyCase("checkpoints/a\x7f", False, "DEL"),
    KeyCase("checkpoints/a\x85b", False, "C1 control character (NEL)"),
]
