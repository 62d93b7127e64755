"""Packages of the wheel: all that lie under `dllm/`, and the folder `cli/` under the name `dllm.cli`."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["dllm", "dllm.*"]), "dllm.cli"])
