"""The built-in attacks. Each file is one attack and needs nothing but fedlab.audit and fedlab.tasks."""
