"""The original's `flagai.model.predictor.predictor`: today's Predictor, which has its methods. Holds nothing itself."""

from flagai.predict.predictor import Predictor

__all__ = ["Predictor"]
