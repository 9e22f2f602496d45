"""Word count, on columns from end to end: no Python runs for a line or a word.

An aggregate without a window is a changelog: each batch puts out the new counts of the words it had. This
text is one batch, so every word comes once.

    millstream run examples/word_count.py
"""

from pathlib import Path

import millstream as ms
from millstream import col

flow = ms.Flow("word-count")

words = (
    flow.read_text(Path(__file__).parent / "data" / "river.txt")
    .select(word=col("line").str.to_lowercase().str.replace_all(r"[^a-z' ]", "").str.split(" "))
    .explode("word")
    .filter(col("word") != "")
)
counts = words.key_by("word").agg(count=ms.count())
counts.write_csv("out/words.csv")
counts.filter(col("count") >= 5).print()
