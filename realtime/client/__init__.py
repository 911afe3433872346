"""The client's side: `mirror` has no I/O, `connection` drives one over a WebSocket."""
