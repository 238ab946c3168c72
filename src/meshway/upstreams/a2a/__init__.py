"""How the hub speaks A2A to agents: the transport of the relay and the reader of cards."""
