"""The network, the data and the training."""

from itertools import islice

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """One convolution, pooled, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(8 * 4 * 4, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv(x)))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def get_model(name):
    """A CNN, or a network of two linear layers."""
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return Net()


def load_data(partition_id=0, num_partitions=1, train=True):
    """A client's share of the training digits, or all test digits; pixels from -1 to 1."""
    digits = load_digits()
    x = (torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16 - 0.5) / 0.5
    y = torch.tensor(digits.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(42))
    rows = order[360:][partition_id::num_partitions] if train else order[:360]
    return TensorDataset(x[rows], y[rows])


def train(model, dataset, config, lr):
    """Local SGD; returns the mean loss of its steps."""
    loader = DataLoader(dataset, batch_size=config["batch-size"], shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    criterion = nn.CrossEntropyLoss()
    losses = []
    model.train()
    for _ in range(config["local-epochs"]):
        for images, labels in islice(loader, config["max-steps"] or None):
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def test(model, dataset):
    """Loss and accuracy."""
    model.eval()
    images, labels = dataset.tensors
    logits = model(images)
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()
