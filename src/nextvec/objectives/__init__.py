"""What a model is trained to make small: pure functions of tensors that never see a model."""
