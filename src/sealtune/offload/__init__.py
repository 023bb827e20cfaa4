"""Masked linear algebra: frozen products on an accelerator that learns nothing from them."""
