"""One module per kind of destination."""
