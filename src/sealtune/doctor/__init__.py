"""What a machine offers, and what each role of a job needs of it: ``sealtune doctor``.

Nothing but Python's library is imported at the level of a module: a machine on which packages are
missing is one of those to be looked at.

Trust domain: operator (untrusted); it reads, and changes nothing.
"""
