"""Scoring of models and saved images, and the report."""

from llie_jax.evaluation.evaluator import evaluate as evaluate
from llie_jax.evaluation.runner import compare_folders as compare_folders
from llie_jax.evaluation.runner import run as run
from llie_jax.evaluation.scores import Scores as Scores
