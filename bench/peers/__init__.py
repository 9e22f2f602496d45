"""The peers, each a module that runs in an environment of its own (see `bench.contestants`)."""
