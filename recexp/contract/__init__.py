"""What must hold for any model, checked on one configuration by recexp's own tests and by the verb `check`."""
