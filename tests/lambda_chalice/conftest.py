"""The Lambda's code is imported as it is packaged: its folder is the import root, and a stage's settings are set."""

import os
import sys

from comfyeks.paths import REPO_ROOT
from tests.lambda_chalice.fakes import SETTINGS

sys.path.insert(0, str(REPO_ROOT / "lambda-chalice"))
os.environ.update(SETTINGS)  # app.py reads the queue's ARN while it is imported, as Chalice does when it packages
