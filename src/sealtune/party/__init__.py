"""What every process of a job shares, whatever its method.

Trust domain: every enclave, and data owners.
"""
