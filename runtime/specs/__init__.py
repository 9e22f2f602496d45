"""Specs: what each operator is told to do, as data, and what planning has to know of it."""
