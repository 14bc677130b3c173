"""Tests; `pytest` alone runs them all, with lint and types."""
