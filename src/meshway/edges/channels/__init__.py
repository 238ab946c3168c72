"""The data calls of channels over HTTP, below ASGI: posts, leases, replies, pages, feeds and blobs."""
