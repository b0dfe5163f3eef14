"""Networks. They know nothing of where their inputs come from."""
