"""labline: from the lab bench to the production line."""

__version__ = "0.1.0"
