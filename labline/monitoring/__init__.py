"""Monitoring: a version's recent predictions compared with its reference, and what that comes to."""
