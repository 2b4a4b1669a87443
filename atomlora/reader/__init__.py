"""The shared reader: one adapter per base, made by PEFT, that answers shortly from what stands before it.

It is trained across documents (`train.py`, the command `adapt`) and mounted on a second view of the base (`mounted.py`)
for a second step: what the atoms stated, or the retrieved text, is read and answered in a few words. Atoms and their
statements are the bare base's with or without it.
"""
