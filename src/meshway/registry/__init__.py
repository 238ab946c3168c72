"""Who is there: agents, their instances, cards and presence."""
