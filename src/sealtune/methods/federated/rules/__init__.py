"""The rules of aggregation, a file each.

Trust domain: server enclave.
"""
