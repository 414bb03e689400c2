"""The code that MLflow runs to load a registered model; `lightning_modules.registry` holds the class."""

from mlflow.models import set_model

from lightning_modules.registry import ServedModel

set_model(ServedModel())
