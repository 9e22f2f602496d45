"""Joins: two inputs matched by key, and what each of them has to remember for it.

- `key_index`: a number for each key, the same on both sides.
- `arrays`, `values`, `growing`: columns that grow.
- `rows`, `sides`: the rows of one side.
- `sorted_rows`: where the rows of a key and a span of time are; `content`: where those are that say the same.
- `output`: rows of both sides put together.
- `tables`: the rows of a side in checkpoints.
- `base`: what all joins of two streams do; `interval`, `updating`, `window`, `as_of`, `lookup`: the operators.
"""
