"""What a client does."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from personalised import task

app = ClientApp()


def prepare(msg: Message, context: Context):
    """The shared body with the client's own head, and its records."""
    net = task.Net()
    net.body.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    if "head" in context.state:
        net.head.load_state_dict(context.state["head"].to_torch_state_dict())
    return net, *task.load_data(context.node_config["partition-id"], context.node_config["num-partitions"])


@app.train()
def train(msg: Message, context: Context):
    net, dataset, _ = prepare(msg, context)
    config = context.run_config
    loss = task.train(net, dataset, config["local-epochs"], config["batch-size"], config["learning-rate"])
    context.state["head"] = ArrayRecord(net.head.state_dict())  # stays here
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(dataset)})
    content = RecordDict({"arrays": ArrayRecord(net.body.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    net, _, dataset = prepare(msg, context)
    loss, accuracy = task.test(net, dataset)
    metrics = MetricRecord({"loss": loss, "accuracy": accuracy, "num-examples": len(dataset)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
