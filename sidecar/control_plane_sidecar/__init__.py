"""One per pod: the answers of the library over HTTP, for processes in other languages."""
