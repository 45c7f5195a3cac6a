"""The agreement between a client and the service; nothing here needs NumPy."""
