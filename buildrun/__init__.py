"""buildrun: run MLflow Projects the way a build tool runs targets."""

__version__ = "0.1.0"
