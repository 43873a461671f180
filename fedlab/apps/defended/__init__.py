"""Defenses on somebody else's Flower app: the hooks of a `fedlab.audit.Defense`, applied from outside.

The app's code is not changed. What a defense does to the network is done to each network of the app's before
it is first used; what it does to steps, before the optimizer takes them; what it does to updates, to the
messages on their way; what it does to settings, in the app's run config. What needs the app's server to take
part in a protocol cannot be tried, and is refused before anything runs.
"""
