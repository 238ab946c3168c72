"""Everything an operator may set: read once from a TOML file, the environment and flags, checked, and explained.

Each room owns its model in `<room>/settings.py`; `model.Settings` puts them together. Nothing else reads the
environment.
"""
