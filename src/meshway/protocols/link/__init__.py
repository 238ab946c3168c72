"""The hub's WebSocket protocol at `/v1/ws`: frames without I/O, the same for hub and SDK."""
