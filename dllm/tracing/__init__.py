"""What `dllm.trace` is made of; the format is described there."""
