"""Atoms on a Hugging Face model at inference: what a request carries (`composition`) and where it acts
(`mount`)."""
