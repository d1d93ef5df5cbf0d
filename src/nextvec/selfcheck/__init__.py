"""The instruments on trial: every metric on predictors and in worlds of known truth, every guard on its fault."""
