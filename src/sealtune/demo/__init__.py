"""Real medical data sets and a real small model to try sealtune on.

Trust domain: data owner's machine, before a run; no program of a run loads it.
"""
