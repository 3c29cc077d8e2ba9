"""The Python API and MLflow's plug-in; its names are those of ``buildrun.__all__``."""
