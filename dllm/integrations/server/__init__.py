"""HTTP server with OpenAI's API, in which rows do not wait for each other (needs `pip install 'dllm[serve]'`)."""
