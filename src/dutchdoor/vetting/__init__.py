"""placeholder: the owner writes this."""
