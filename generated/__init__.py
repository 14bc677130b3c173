"""Optimizers generated from specs/ by `optgen build --all`; never edited by hand."""
