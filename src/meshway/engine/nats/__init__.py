"""The engine on NATS JetStream, for many hubs."""
