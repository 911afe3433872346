"""What a browser is served: `client.js`, the browser's side of the protocol, and its types."""
