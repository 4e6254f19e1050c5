"""Fleets as test data."""
