"""What must hold for any model, tried on one configuration: recexp's own tests and the verb `check` use it."""
