"""Atoms that state different answers to the same question: found when they are compiled, heeded when asked."""
