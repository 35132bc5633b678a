"""The two ways a command ends badly.

    ComfyeksError
    ├── UserError   the input is wrong; nothing was changed            exit code 2
    └── Failure     the input was fine, what it asked for did not work  exit code 1

Both carry one line meant for a person: what, where, the bad value, what is allowed, how to fix it.
"""


class ComfyeksError(Exception):
    exit_code = 1


class UserError(ComfyeksError):
    exit_code = 2


class Failure(ComfyeksError):
    exit_code = 1
