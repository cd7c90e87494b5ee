"""Serves a run beside its training, in a process that lives as long as its standard input.

    python -m hornbook.serve.beside RUN PORT

However the training process ends, the pipe to this one closes with it, so no server is left over.
The log is JSON on standard error, for the training process to read.
"""

import json
import os
import signal
import sys
import threading

from hornbook.errors import HornbookError
from hornbook.serve.server import Options, serve


def main(run: str, port: int) -> int:
    """Serve until standard input ends; the exit status."""
    threading.Thread(target=end_with_input, daemon=True).start()
    try:
        return serve([run], Options(port=port, json_logs=True))
    except HornbookError as error:
        sys.stderr.write(json.dumps({"event": "failed", "message": str(error)}) + "\n")
        return error.exit_code


def end_with_input() -> None:
    """Wait for the end of standard input, then stop as SIGTERM does."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
