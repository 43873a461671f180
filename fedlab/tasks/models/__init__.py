"""Networks in plain torch, each with the architecture knobs that decide what its updates leak."""
