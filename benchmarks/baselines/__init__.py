"""The published loops, written out plainly, to measure ours against. Not for use."""
