"""Public helpers for tests: what Meshway tests itself with."""
