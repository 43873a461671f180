"""Change the network instead of what is sent."""
