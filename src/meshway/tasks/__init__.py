"""Tasks: who owns which, and what the hub last saw of them."""
