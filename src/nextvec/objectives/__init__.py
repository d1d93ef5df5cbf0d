"""What a model is trained to make small: terms that look at a batch and never at a model."""
