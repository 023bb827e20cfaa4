"""Which files each program may load: ``NAME.txt`` is the list, ``reach`` works it out.

Trust domain: operator (untrusted); the lists themselves are measured with their programs.
"""
