"""Outbound: how the hub speaks to agents and other programs."""
