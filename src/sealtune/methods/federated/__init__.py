"""Federated tuning: each site trains in an enclave, a server enclave averages.

Trust domain: server enclave.
"""
