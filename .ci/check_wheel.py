"""What a wheel must do where it was built: cibuildwheel runs this with the wheel installed.

The decoder must be the wheel's own, but on Windows, where a compiler of GNU C may be missing.
"""

import sys

from hornbook.kernels import processor
from hornbook.kernels.library import NativeUnavailableError, shared_library
from hornbook.kernels.recipe import DECODER

try:
    library = shared_library(DECODER)
    print(library.target, library.origin)  # noqa: T201
    sound = library.origin.startswith("built into the wheel")
except NativeUnavailableError as error:
    print(processor.machine(), error)  # noqa: T201
    sound = sys.platform == "win32"
sys.exit(not sound)
