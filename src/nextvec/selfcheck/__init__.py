"""The instruments on trial: metrics in worlds of known truth, guards on the faults they are for."""
