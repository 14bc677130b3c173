"""What an optimizer costs, before it is run: bytes of state, and static facts of its GPU code."""
