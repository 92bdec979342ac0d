//! SQLite: the index and the outbox in one transaction.
