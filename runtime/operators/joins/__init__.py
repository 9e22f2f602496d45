"""Joins: two inputs matched by key, and what each of them has to remember for it.

- `key_index`: a number for each key, the same on both sides.
- `growing`, `rows`: the rows of one side, as columns that grow.
- `sorted_rows`: where the rows of a key and a span of time are.
- `output`: rows of both sides put together.
- `interval`, `updating`, `window`, `as_of`, `lookup`: the operators.
"""
