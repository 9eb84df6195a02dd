"""Vector fields: one architecture per module."""
