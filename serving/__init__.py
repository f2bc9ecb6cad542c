"""The inference service: how a registered version is loaded, checked and asked."""
