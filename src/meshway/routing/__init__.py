"""Which instance takes a call: balancing, passive health, capacity."""
