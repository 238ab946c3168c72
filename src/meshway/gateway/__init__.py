"""The use cases, one verb a file, and the ports that the outside rooms implement for them."""
