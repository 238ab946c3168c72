"""What the hubs of one mesh agree on: who is there, and who does which of the duties that are done once."""
