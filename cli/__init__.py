"""The command line: parse options, call optgen, print. No logic."""
