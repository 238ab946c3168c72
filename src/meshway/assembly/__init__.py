"""The only place that knows everything: from settings to a running hub."""
