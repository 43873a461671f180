"""What a client does."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from pytorch_cnn.task import get_model, load_data
from pytorch_cnn.task import train as train_model

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    config = context.run_config
    model = get_model(config["model"])
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    dataset = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    loss = train_model(model, dataset, config, msg.content["config"]["lr"])
    metrics = MetricRecord({"train-loss": loss, "num-examples": len(dataset)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)
