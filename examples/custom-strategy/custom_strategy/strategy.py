"""FedAvg whose learning rate decays, and which adds noise to every new model."""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg


class NoisyFedAvg(FedAvg):
    def __init__(self, decay, noise, **kwargs):
        super().__init__(**kwargs)
        self.decay, self.noise = decay, noise

    def configure_train(self, server_round, arrays, config, grid):
        decayed = ConfigRecord({"lr": config["lr"] * self.decay ** (server_round - 1)})
        return super().configure_train(server_round, arrays, decayed, grid)

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return arrays, metrics
        noisy = {}
        for key, array in arrays.items():
            value = array.numpy()
            noise = np.random.normal(0.0, self.noise, value.shape)
            noisy[key] = Array((value + noise).astype(value.dtype))
        return ArrayRecord(noisy), metrics
