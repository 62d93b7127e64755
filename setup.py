"""What pyproject.toml cannot say: the folder `cli` is the package `dllm.cli`, beside all packages that are found."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["dllm", "dllm.*"]), "dllm.cli"])
