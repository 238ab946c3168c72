"""The A2A protocol, versions 1.0 and 0.3, bindings JSON-RPC and HTTP+JSON: reading, translating, writing."""
