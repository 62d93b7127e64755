"""The type checker behind jaxtyping in tests: beartype, for which an int is a float too, as PEP 484 has it."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
