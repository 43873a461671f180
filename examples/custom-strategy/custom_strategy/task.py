"""The network, the data and the training."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


def make_net():
    """Two strided convolutions and a classifier."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def load_data(partition_id, num_partitions):
    """A client's records to train on and to test with; pixels from 0 to 1."""
    digits = load_digits()
    x = torch.tensor(digits.images[partition_id::num_partitions], dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(digits.target[partition_id::num_partitions])
    return random_split(TensorDataset(x, y), [0.8, 0.2], torch.Generator().manual_seed(42))


def train(net, dataset, epochs, batch_size, lr):
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(net.parameters(), lr)
    loader, total = DataLoader(dataset, batch_size, shuffle=True), 0.0
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(loader))


@torch.no_grad()
def test(net, dataset):
    net.eval()
    x, y = next(iter(DataLoader(dataset, len(dataset))))
    logits = net(x)
    return nn.CrossEntropyLoss()(logits, y).item(), (logits.argmax(1) == y).float().mean().item()
