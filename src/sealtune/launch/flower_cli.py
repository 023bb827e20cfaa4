"""Several ``flwr`` commands in one process: starting Python and flwr for each costs a second.

    python -m sealtune.launch.flower_cli '[["run", "app", "sealtune", "--format", "json"], ...]'

Each command prints its JSON; the exit code is 0 if all succeeded. Flower prints a JSON object with
``"success": false`` and may exit with 0 all the same, so that is looked at, too.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import io
import json
import sys


def main(commands: list[list[str]]) -> int:
    """Run ``commands`` in order; stop at the first that fails."""
    from flwr.cli.app import app  # the `flwr` command itself

    printed = sys.__stdout__
    for arguments in commands:
        sys.__stdout__ = out = io.StringIO()  # type: ignore[misc, assignment]  # flwr prints there
        sys.argv = ["flwr", *arguments]
        code = 0
        try:
            app(arguments, standalone_mode=False)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except Exception as error:
            print(f"flwr {' '.join(arguments)}: {error}", file=sys.stderr)
            code = 1
        finally:
            sys.__stdout__ = printed  # type: ignore[misc]
        print(out.getvalue(), file=sys.stderr, flush=True)
        if code != 0 or not _succeeded(out.getvalue()):
            return code or 1
    return 0


def _succeeded(output: str) -> bool:
    try:
        answer = json.loads(output)
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get("success") is True


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
