"""What every command shares: its configuration, its arguments, its errors in one line, the signals that stop it."""
