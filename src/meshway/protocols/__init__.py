"""Wire formats without I/O: bytes or decoded JSON in, values out. No sockets, no clock, no SDK."""
