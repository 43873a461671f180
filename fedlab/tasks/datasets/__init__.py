"""Real data sets: each function returns (train, test) and never touches the network."""
