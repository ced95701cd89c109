"""The same screen on masks that were moved or exchanged."""
