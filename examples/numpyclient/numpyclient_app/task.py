"""The network, the data and the training."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """Two linear layers."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 48)
        self.fc2 = nn.Linear(48, 10)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def load_data(partition_id, num_partitions, batch_size):
    """A client's own records, four fifths to train on and the rest to test; pixels from 0 to 1."""
    images, labels = load_digits(return_X_y=True)
    images, labels = images[partition_id::num_partitions], labels[partition_id::num_partitions]
    x, x_test, y, y_test = train_test_split(images / 16, labels, test_size=0.2, random_state=42)

    def dataset(x, y):
        return TensorDataset(torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y))

    return DataLoader(dataset(x, y), batch_size, shuffle=True), DataLoader(dataset(x_test, y_test), 64)


def train(net, loader, epochs, lr):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    net.train()
    total = 0.0
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(loader))


@torch.no_grad()
def test(net, loader):
    net.eval()
    loss = correct = 0.0
    for images, labels in loader:
        logits = net(images)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(1) == labels).sum().item()
    return loss / len(loader.dataset), correct / len(loader.dataset)


def get_weights(net):
    return [value.cpu().numpy() for value in net.state_dict().values()]


def set_weights(net, weights):
    pairs = zip(net.state_dict(), weights, strict=True)
    net.load_state_dict(OrderedDict((key, torch.tensor(value)) for key, value in pairs))
