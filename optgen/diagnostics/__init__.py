"""What optgen tells a user about a spec: source spans, diagnostics as data, and the one renderer."""

from optgen.diagnostics.diagnostic import Diagnostic, Diagnostics, Label, SpecError
from optgen.diagnostics.source import Source, Span

__all__ = ["Diagnostic", "Diagnostics", "Label", "Source", "Span", "SpecError"]
