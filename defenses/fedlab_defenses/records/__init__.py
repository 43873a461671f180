"""Change the records that a step trains on."""
