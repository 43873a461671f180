"""What the server does."""

from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

from numpyclient_app.task import Net, get_weights


def weighted_average(metrics):
    total = sum(examples for examples, _ in metrics)
    return {"accuracy": sum(examples * one["accuracy"] for examples, one in metrics) / total}


def server_fn(context: Context):
    strategy = FedAvg(
        initial_parameters=ndarrays_to_parameters(get_weights(Net())),
        evaluate_metrics_aggregation_fn=weighted_average,
    )
    config = ServerConfig(num_rounds=context.run_config["num-server-rounds"])
    return ServerAppComponents(strategy=strategy, config=config)


app = ServerApp(server_fn=server_fn)
