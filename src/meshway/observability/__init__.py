"""What can be seen of a hub from outside: logs, metrics, trace context."""
