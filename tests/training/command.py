"""The command `dllm` as a module, for launchers: python -m tests.training.command train …"""

from dllm.cli.main import run

if __name__ == "__main__":
    run()
