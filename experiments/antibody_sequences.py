"""Antibody sequences for the experiments on AntiBERTy: variable domains of well-known antibodies, by name and chain.

The first two are the examples of AntiBERTy's own documentation; the others are published in the WHO's lists of
international nonproprietary names. Whether the model saw them, or their like, in training is not known: it was trained
on natural repertoires, in which human and mouse germlines as these are everywhere.
"""

from __future__ import annotations

from typing import Any

ANTIBODIES: dict[str, str] = {
    "example heavy": (
        "EVQLVQSGPEVKKPGTSVKVSCKASGFTFMSSAVQWVRQARGQRLEWIGWIVIGSGNTNY"
        "AQKFQERVTITRDMSTSTAYMELSSLRSEDTAVYYCAAPYCSSISCNDGFDIWGQGTMVT"
        "VS"
    ),
    "example light": (
        "DVVMTQTPFSLPVSLGDQASISCRSSQSLVHSNGNTYLHWYLQKPGQSPKLLIYKVSNRF"
        "SGVPDRFSGSGSGTDFTLKISRVEAEDLGVYFCSQSTHVPYTFGGGTKLEIK"
    ),
    "trastuzumab heavy": (
        "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRY"
        "ADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
    ),
    "trastuzumab light": (
        "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
    ),
    "pembrolizumab heavy": (
        "QVQLVQSGVEVKKPGASVKVSCKASGYTFTNYYMYWVRQAPGQGLEWMGGINPSNGGTNF"
        "NEKFKNRVTLTTDSSTTTAYMELKSLQFDDTAVYYCARRDYRFDMGFDYWGQGTTVTVSS"
    ),
    "adalimumab light": (
        "DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAASTLQSGVPSRFSGSGSGTDFTLTISSLQPEDVATYYCQRYNRAPYTFGQGTKVEIK"
    ),
}


def encode_sequence(model: Any, sequence: str) -> tuple[int, ...]:
    """Ids of a sequence between the two special tokens that frame a text."""
    return tuple(model.tokenizer.encode(" ".join(sequence)))
