"""What a run shows of itself while it goes on and afterwards: its page, its history, its figures for other programs.

The supervisor is told everything by the coordinator a few times a second. A `Monitor` keeps that and writes the history;
the server answers from both. Pictures (`picture.py`) are what every reader gets: the page, ``millstream top``,
Prometheus. Nothing here can hold up the run.
"""
