"""NVIDIA GPUs in confidential-computing mode: an addition to an enclave, never alone.

Trust domain: every enclave, and whoever appraises one.
"""
