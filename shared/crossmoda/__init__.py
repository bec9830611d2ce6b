"""Custom layers, losses, transforms and engines that the crossmoda bundles' configs name, and a head phantom."""

__version__ = "0.1.0"
