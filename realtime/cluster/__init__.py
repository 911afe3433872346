"""Beyond one process: other nodes, and where the world is kept. Redis lives here, and the file of a node that is alone."""
