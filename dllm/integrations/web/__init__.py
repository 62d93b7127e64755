"""The page of `dllm app`: conversation, live denoising, replay and races (needs `pip install 'dllm[web]'`)."""
