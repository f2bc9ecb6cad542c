"""Small real versions, to be loaded."""

from saved_versions import classifier, copied, export_network, images, version, versions

__all__ = ["classifier", "copied", "export_network", "images", "version", "versions"]
