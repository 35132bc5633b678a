"""Where things lie in a checkout. Everything written by a command lies below STATE or TOOLS, both ignored by git."""

from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parents[2]
STATE = REPO_ROOT / ".comfyeks"
TOOLS = REPO_ROOT / ".tools"
