"""Evaluation: each image once, at the size of its label or that of a paper, whatever the number of ranks."""

from trainers.evaluation.passes import PassesConfig, predict_image, read_logits
from trainers.evaluation.results import print_evaluation, write_evaluation
from trainers.evaluation.samples import read_samples
from trainers.evaluation.sizes import SizeConfig
from trainers.evaluation.tally import Tally, all_scores, evaluate, level_scores, mean_miou

__all__ = [
    "PassesConfig",
    "SizeConfig",
    "Tally",
    "all_scores",
    "evaluate",
    "level_scores",
    "mean_miou",
    "predict_image",
    "print_evaluation",
    "read_logits",
    "read_samples",
    "write_evaluation",
]
