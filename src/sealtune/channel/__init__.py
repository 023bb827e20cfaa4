"""The sealed channel between enclaves: attested handshake, key release, sealed messages.

Trust domain: every enclave, and data owners who release keys.
"""
