"""Flower's plain FedAvg, as its documentation writes it, of an adapter that nobody trains."""
