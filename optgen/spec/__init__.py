"""Text -> Spec: reading YAML with positions, checking it, and reporting every user error with a caret."""
