"""The fixtures of everything that trains."""

from tiny_training import (  # noqa: F401
    _one_thread,
    _own_pace,
    llama,
    make_examples,
    real_pace,
    targets,
)
