"""How much labels change when a scan is disturbed in ways that leave the brain as it was."""
