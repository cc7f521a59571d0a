"""Read models in PostgreSQL: tables made from the declarations, the fold's transaction, queries."""
