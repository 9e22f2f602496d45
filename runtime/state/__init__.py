"""Columnar state by key: what operators keep without a Python object for each key.

key_table.py   a number, the slot, for every key
columns.py     columns with a row for each slot, and logs of rows
lists.py       a list of numbers for each slot
expiry.py      which slots are due to be freed
pieces.py      which slots have changed since which checkpoint
"""
