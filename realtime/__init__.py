"""A server for live maps: each viewer sees, now, what is inside their viewport and passes their filter."""
