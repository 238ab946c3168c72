"""The HTTP server that all inbound edges share: limits, raw exchanges below ASGI, draining."""
