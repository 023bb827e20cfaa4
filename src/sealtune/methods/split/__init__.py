"""Split tuning: sites run the first blocks, a server enclave tunes the rest on what they send.

Trust domain: server enclave; what a data owner imports of it says so.
"""
