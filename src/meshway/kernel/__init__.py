"""Words that every room shares: errors, time, ids, principals, metrics. Imports nothing of ours."""
