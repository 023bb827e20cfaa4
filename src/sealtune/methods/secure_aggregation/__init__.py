"""Federated tuning without any TEE: sites train on their own machines, a server sums.

Trust domain: server operator; data owner.
"""
