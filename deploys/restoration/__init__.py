"""The way back: a host becomes what it was before its first deploy."""
