"""The A2A gateway's inbound side: raw exchanges in, agent calls out, answers in the caller's dialect."""
