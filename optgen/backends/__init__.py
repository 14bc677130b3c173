"""Plan -> text: a printer, a config and templates for each backend."""
