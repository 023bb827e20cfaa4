"""What enclaves run: one room for each method of tuning.

Trust domain: every enclave.
"""
