"""The four array libraries, for tests that need several at once."""

from tests.conftest import LIBRARIES, library_array

__all__ = ["LIBRARIES", "library_array"]
