"""What differential privacy costs, worked out by a kept library; no enclave loads it.

Trust domain: a participant's own machine.
"""
