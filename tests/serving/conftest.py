"""Small real versions, to be served."""

from saved_forecasters import forecasters, windows
from saved_versions import classifier, copied, export_network, images, version, versions

__all__ = ["classifier", "copied", "export_network", "forecasters", "images", "version", "versions", "windows"]
