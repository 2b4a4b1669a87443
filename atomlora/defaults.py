"""Defaults of asking that both the command line and `AtomLoRA` state. Imports nothing: `--help` shall be quick."""

TOP_K = 4  # atoms that may take part in an answer
MAX_NEW_TOKENS = 96  # of a statement
STEADY = 0.5  # p > 0.5 suffices for greedy recall (the Parametric Memory Law)
