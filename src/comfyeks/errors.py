"""The two kinds of failure of a command.

    ComfyeksError
    ├── UserError        the input is wrong; nothing was changed                   exit code 2
    └── OperationError   the input was right, but the operation it asked for failed  exit code 1

The message is one line for a person: what, where, the bad value, what is allowed, how to fix it.
"""


class ComfyeksError(Exception):
    exit_code = 1


class UserError(ComfyeksError):
    exit_code = 2


class OperationError(ComfyeksError):
    exit_code = 1
