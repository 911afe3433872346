"""The edge: sockets, messages, flushing, the HTTP API."""
