"""Channels: named paths for messages of five kinds, on the engine's primitives."""
