"""A site: sleeps as long as training takes, and returns another adapter."""

import time

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round."""
    config = message.content["config"]
    arrays = message.content["arrays"].to_numpy_ndarrays()
    time.sleep(config["work"])
    step = float(context.node_id % 1000)  # nobody's arrays are another's, or the server's
    content = RecordDict({
        "arrays": ArrayRecord([array + array.dtype.type(step) for array in arrays]),
        "metrics": MetricRecord({"num-examples": 100}),
    })  # fmt: skip
    return Message(content=content, reply_to=message)
