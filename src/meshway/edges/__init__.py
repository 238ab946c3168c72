"""Inbound: what reaches the hub from outside, one room a protocol."""
