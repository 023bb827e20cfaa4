"""Noise and chance that nobody can foresee: for differential privacy inside enclaves.

Trust domain: client enclave, server enclave.
"""
