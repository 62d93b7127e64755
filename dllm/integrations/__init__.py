"""Where this library meets others: the only home of optional imports."""
