"""What the server is compared with: one file per peer, each a `Peer` of `bench.peers.peer`."""
