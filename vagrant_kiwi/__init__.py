"""Build KIWI operating-system images in throw-away Vagrant guests."""

__version__ = "0.1.0"
