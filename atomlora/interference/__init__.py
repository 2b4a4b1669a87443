"""Interference: what atoms do to each other, measured, recorded, predicted and acted upon."""
