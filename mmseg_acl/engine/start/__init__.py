"""From a config file to a run under way: whatever a user can get wrong is found and said here."""
