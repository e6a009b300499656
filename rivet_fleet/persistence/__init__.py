"""L3: remembers. One method is one transaction is one transition."""
