"""nltk's model of sentence boundaries, which IFEval needs to count sentences: found, downloaded, or replaced."""

from __future__ import annotations

import atexit
import io
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

ABBREVIATIONS = ("mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "e.g", "i.e", "u.s", "a.m", "p.m", "inc", "jr")
MODEL_FILES = {
    "abbrev_types.txt": "\n".join(ABBREVIATIONS) + "\n",
    "collocations.tab": "",
    "sent_starters.txt": "",
    "ortho_context.tab": "",
}
REPLACEMENT_NOTE = (
    "nltk's data 'punkt_tab' is not on this machine: instructions about numbers of sentences and of words in capitals "
    "are scored with a few abbreviations in its place, and may differ from published scores "
    "(python -m nltk.downloader punkt_tab, or put it into nltk_data/tokenizers of --data)"
)


def prepare_sentence_model(data: str | None) -> str | None:
    """Make sure that nltk has a model of sentences.

    Args:
        data: Folder of the data files, which may hold nltk's data in nltk_data.

    Returns:
        A note for the report if a substitute had to be made, else None.
    """
    import nltk

    if data is not None:
        nltk.data.path.insert(0, str(Path(data) / "nltk_data"))
    if _has_sentence_model() or _download_sentence_model():
        return None
    folder = tempfile.TemporaryDirectory(prefix="dllm-nltk-")
    atexit.register(folder.cleanup)
    english = Path(folder.name) / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    for name, text in MODEL_FILES.items():
        (english / name).write_text(text)
    nltk.data.path.append(folder.name)
    return REPLACEMENT_NOTE


def _download_sentence_model() -> bool:
    """Try to download the model, and return True if nltk has it afterwards."""
    import nltk

    # nltk would otherwise print errors to the stream that was stderr when it was imported.
    nowhere = io.StringIO()
    with redirect_stdout(nowhere):
        return bool(nltk.download("punkt_tab", quiet=True, print_error_to=nowhere)) and _has_sentence_model()


def _has_sentence_model() -> bool:
    """Return True if nltk has its own model rather than the substitute of this package."""
    import nltk

    try:
        path = str(nltk.data.find("tokenizers/punkt_tab"))
    except LookupError:
        return False
    return "dllm-nltk-" not in path
