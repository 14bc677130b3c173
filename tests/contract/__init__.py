"""What torch.optim promises, for one optimizer of each kind. A new optimizer is a row in rows.py."""
