"""Applications and plug-ins from end to end."""
