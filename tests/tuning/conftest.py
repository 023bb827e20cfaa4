from tests.model.conftest import _one_thread, llama

__all__ = ["_one_thread", "llama"]
