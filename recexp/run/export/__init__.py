"""A trained model as a folder that serves raw ids without recexp."""
