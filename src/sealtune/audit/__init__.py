"""Attacks on a finished run: each is carried out without protection and against it.

Start reading at ``finding.py`` (what an attack finds), then ``attacks.py`` (which there are).

Trust domain: operator (untrusted); protects nothing, and no program of a job loads it. It reads the
rows and the adapter of a run, so it belongs where both may be read.
"""
