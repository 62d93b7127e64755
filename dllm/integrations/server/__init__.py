"""A server that other programs call: the API that their tools speak, and rows that do not wait (extra `serve`)."""
