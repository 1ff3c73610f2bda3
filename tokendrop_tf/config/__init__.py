"""Settings: declarations, rules, gin sections and the gin reader."""
