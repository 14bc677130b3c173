"""The C++ backend: one pass over memory per sweep with vectors of the CPU, compiled when it is first used."""

from optgen.backends.cpp.emit import emit_cpp

__all__ = ["emit_cpp"]
