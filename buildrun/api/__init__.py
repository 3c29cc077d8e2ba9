"""The Python API; its names are those of ``buildrun.__all__``."""
