"""Inbound WebSocket: subscribers, consumers, responders and workers on one connection each."""
