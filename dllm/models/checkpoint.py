"""A checkpoint before its weights are read: its folder, its config and its family."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dllm.errors import CheckpointError
from dllm.models.families import AUTOREGRESSIVE, Config, Family, recognise_family
from dllm.models.third_party import as_checkpoint_error

EMBEDDED = Path(__file__).parent / "embedded"
SMALL = ["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
T = TypeVar("T")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint before its weights are read.

    Attributes:
        name: Name that the caller gave.
        folder: Where its files are now.
        config: config.json as it is on disk.
        generation: generation_config.json, or {}.
        added: added_tokens.json, or {}.
        family: The family whose format it has.
    """

    name: str
    folder: Path
    config: Config
    generation: Config
    added: Config
    family: Family

    @property
    def plain(self) -> bool:
        """True for a plain causal language model."""
        return self.family.name == AUTOREGRESSIVE.name

    def stock_config(self) -> Any:
        """Make the config of the stock class.

        Raises:
            CheckpointError: The stock class cannot compute what the checkpoint asks for.
        """
        import transformers

        with as_checkpoint_error(f"{self.folder / 'config.json'}: not a valid config of {self.family.title}"):
            if self.plain:
                config = transformers.AutoConfig.from_pretrained(str(self.folder), trust_remote_code=False)
                config.transformers_weights = None  # may name a file that is not safetensors
                return config
            fields = _name_folder_in_errors(self.folder, lambda: self.family.translate(self.config))
            if self.config.get("quantization_config") is not None:
                fields["quantization_config"] = self.config["quantization_config"]
            return getattr(transformers, self.family.settings)(**fields)


def read_checkpoint(name: str | Path, revision: str | None = None, family: str | None = None) -> CheckpointFiles:
    """Find a checkpoint, download its small files if it is on the Hub, and recognise its family.

    Args:
        name: A folder, a Hub id, or "embedded".
        revision: Branch, tag or commit on the Hub.
        family: Name of the family, where config.json does not determine it.

    Raises:
        CheckpointError: There is no such checkpoint, its files are broken, or it is of no known family.
        ConfigError: The family that was asked for cannot run it.
    """
    folder = locate_checkpoint(name, revision, SMALL)
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise CheckpointError(f"{name} is a PEFT adapter, no model: load its base model with adapter={str(name)!r}")
        raise CheckpointError(f"{folder}: no config.json; a checkpoint is a folder with config.json and safetensors")
    config = read_json(folder / "config.json")
    generation, added = (_read_optional_json(folder / file) for file in ("generation_config.json", "added_tokens.json"))
    found = _name_folder_in_errors(folder, lambda: recognise_family(config, family, added))
    _name_folder_in_errors(folder, lambda: found.geometry(config))
    return CheckpointFiles(str(name), folder, config, generation, added, found)


def locate_checkpoint(name: str | Path, revision: str | None, patterns: list[str]) -> Path:
    """Find the folder of a checkpoint: the embedded one, a local one, or a Hub snapshot with the files of `patterns`.

    Raises:
        CheckpointError: There is none.
    """
    if name == "embedded":
        if not (EMBEDDED / "config.json").is_file():
            raise CheckpointError(
                f"the embedded model is missing from {EMBEDDED}: reinstall dllm or name another model"
            )
        return EMBEDDED
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(
            f"{name} is a file; a checkpoint is a folder with config.json and safetensors, or a Hub id"
        )
    if isinstance(name, Path) or not HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder; name an existing folder, a Hub id (owner/name) or 'embedded'")
    return download_snapshot(name, revision, patterns)


def is_local(name: str | Path) -> bool:
    """Tell whether a name that `locate_checkpoint` accepts is a folder of this machine rather than a Hub id."""
    return name == "embedded" or Path(name).expanduser().is_dir()


def download_snapshot(name: str, revision: str | None, patterns: list[str]) -> Path:
    """Download (or find in the Hub cache) the files of `patterns` from the top folder of a Hub repository."""
    from huggingface_hub import snapshot_download

    cure = "; name an existing folder, a Hub id such as GSAI-ML/LLaDA-8B-Instruct, or 'embedded'"
    with as_checkpoint_error(f"{name}: no folder of that name here, and the Hub did not deliver it", cure):
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]))


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object of a checkpoint.

    Raises:
        CheckpointError: The file cannot be read, or holds something else.
    """
    with as_checkpoint_error(f"{path}: not readable as JSON", "; download the checkpoint again"):
        value = json.loads(path.read_text("utf-8"))
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, no JSON object; download the checkpoint again")
    return value


def _read_optional_json(path: Path) -> dict[str, Any]:
    """Read one JSON object of a checkpoint, or {} where the file is not there."""
    return read_json(path) if path.is_file() else {}


def _name_folder_in_errors(folder: Path, read: Callable[[], T]) -> T:
    """Call what reads config.json, and put the folder into its errors: a family has only the content of the file."""
    try:
        return read()
    except CheckpointError as error:
        raise CheckpointError(f"{folder}/{error}") from None
