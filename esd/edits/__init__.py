"""What a run makes: the changed weights with their record, read, checked, and put on a model."""
