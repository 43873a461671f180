"""What a client does."""

from flwr.client import ClientApp, NumPyClient
from flwr.common import Context

from numpyclient_app.task import Net, get_weights, load_data, set_weights, test, train


class FlowerClient(NumPyClient):
    def __init__(self, loaders, epochs, lr):
        self.net = Net()
        self.train_loader, self.test_loader = loaders
        self.epochs, self.lr = epochs, lr

    def fit(self, parameters, config):
        set_weights(self.net, parameters)
        loss = train(self.net, self.train_loader, self.epochs, self.lr)
        return get_weights(self.net), len(self.train_loader.dataset), {"train_loss": loss}

    def evaluate(self, parameters, config):
        set_weights(self.net, parameters)
        loss, accuracy = test(self.net, self.test_loader)
        return loss, len(self.test_loader.dataset), {"accuracy": accuracy}


def client_fn(context: Context):
    node, run = context.node_config, context.run_config
    loaders = load_data(node["partition-id"], node["num-partitions"], run["batch-size"])
    return FlowerClient(loaders, run["local-epochs"], run["learning-rate"]).to_client()


app = ClientApp(client_fn)
