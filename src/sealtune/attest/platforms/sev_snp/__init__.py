"""AMD SEV-SNP guests.

Trust domain: every enclave, and whoever appraises one.
"""
