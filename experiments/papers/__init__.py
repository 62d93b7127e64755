"""Published tables as presets: a row is a command, and its published figures stand beside the measured ones."""
