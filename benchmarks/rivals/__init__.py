"""The other ways of serving the same model: how they are installed, started and asked."""
