"""Intel: SGX enclaves and TDX guests.

Trust domain: every enclave, and whoever appraises one.
"""
