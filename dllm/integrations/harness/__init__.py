"""lm-evaluation-harness (extra `eval`): our models in it, and its tasks on our decoder.

lm-eval finds models by import, so its own command knows `--model dllm` when it is started as

    python -m dllm.integrations.harness --model dllm --model_args pretrained=…,policy=factor,f=1.0 --tasks gsm8k
    accelerate launch -m dllm.integrations.harness --model dllm …

Its default batch size is 1: give --batch_size. `dllm eval` is the same with our options, local data, resuming, and
figures of speed.
"""
