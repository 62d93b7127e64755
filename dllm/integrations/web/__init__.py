"""The page of `dllm app`: conversation, live denoising, replay and races, drawn from the stream of steps (Gradio)."""
