"""What a client does."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from momentum_app.task import Net, load_data
from momentum_app.task import test as test_fn
from momentum_app.task import train as train_fn

app = ClientApp()


def prepare(msg: Message, context: Context, train: bool):
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    node, batch_size = context.node_config, context.run_config["batch-size"]
    return net, load_data(node["partition-id"], node["num-partitions"], batch_size, train)


@app.train()
def train(msg: Message, context: Context):
    net, loader = prepare(msg, context, train=True)
    config = context.run_config
    loss = train_fn(
        net, loader, config["local-epochs"], config["lr"], config["momentum"], config["weight-decay"]
    )
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(loader.dataset)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    net, loader = prepare(msg, context, train=False)
    metrics = MetricRecord({"accuracy": test_fn(net, loader), "num-examples": len(loader.dataset)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
