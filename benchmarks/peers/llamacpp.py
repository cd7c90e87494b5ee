"""llama.cpp's server in a process of its own, by its Python wheel xllamacpp.

Its settings are its own, but for the number of texts that it generates together.

    python -m benchmarks.peers.llamacpp MODEL.gguf TEXTS CONTEXT

It prints its address and ends with its standard input.
"""

import sys


def main(path: str, texts: int, context: int) -> None:
    """Serve a file until standard input ends."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = path
    settings.n_parallel = texts
    settings.n_ctx = texts * context
    settings.fit_params = False
    settings.verbosity = 0
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
