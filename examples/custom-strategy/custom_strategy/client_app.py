"""What a client does."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from custom_strategy import task

app = ClientApp()


def prepare(msg: Message, context: Context):
    net = task.make_net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    return net, *task.load_data(context.node_config["partition-id"], context.node_config["num-partitions"])


@app.train()
def train(msg: Message, context: Context):
    net, dataset, _ = prepare(msg, context)
    epochs, batch_size = context.run_config["local-epochs"], context.run_config["batch-size"]
    loss = task.train(net, dataset, epochs, batch_size, msg.content["config"]["lr"])
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(dataset)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    net, _, dataset = prepare(msg, context)
    loss, accuracy = task.test(net, dataset)
    metrics = MetricRecord({"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(dataset)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
