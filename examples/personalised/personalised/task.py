"""The network, the data and the training."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class Net(nn.Module):
    """A body that is shared, and a head that is not."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 32), nn.ReLU()
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.body(x))


def load_data(partition_id, num_partitions):
    """Records of a client, who writes few of the digits, to train on and to test with."""
    digits = load_digits()
    rows = np.array_split(digits.target.argsort(kind="stable"), num_partitions)[partition_id]
    x = torch.tensor(digits.images[rows], dtype=torch.float32).unsqueeze(1) / 16
    data = TensorDataset(x, torch.tensor(digits.target[rows]))
    return random_split(data, [0.8, 0.2], torch.Generator().manual_seed(42))


def train(net, dataset, epochs, batch_size, lr):
    loader = DataLoader(dataset, batch_size, shuffle=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    criterion = nn.CrossEntropyLoss()
    running_loss = 0.0
    net.train()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(loader))


@torch.no_grad()
def test(net, dataset):
    net.eval()
    images, labels = next(iter(DataLoader(dataset, len(dataset))))
    logits = net(images)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return nn.functional.cross_entropy(logits, labels).item(), accuracy
