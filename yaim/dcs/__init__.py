"""Where the cluster keeps what its nodes tell each other: the records, and the kinds of stores."""
