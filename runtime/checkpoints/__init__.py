"""Checkpoints on disk: tables of state, manifests, and the directory that holds them."""
