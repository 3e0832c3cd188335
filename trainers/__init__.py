"""Training, evaluation and prediction with plain torch: never imports ray, so that it runs under torchrun or alone."""
