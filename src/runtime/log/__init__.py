"""The log: its writer, its reader, and its twin in memory."""
