"""Small regular expressions, drawn at random."""

from __future__ import annotations

from hypothesis import strategies as st

LEAVES = st.sampled_from(["a", "b", "c", "ab", "[ab]", "[^a]", "(?:a|bc)", "é"])


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    counts = st.sampled_from(["*", "?", "+", "{2}", "{1,3}", "{2,}"])
    return st.one_of(
        st.tuples(inner, counts).map(lambda p: f"(?:{p[0]}){p[1]}"),
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda p: f"(?:{p[0]}|{p[1]})"),
    )


PATTERNS = st.recursive(LEAVES, grown, max_leaves=5)
