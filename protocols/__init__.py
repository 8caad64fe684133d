"""Sans-I/O formats and sessions: bytes in, events out. No torch, sockets, threads or clock."""
