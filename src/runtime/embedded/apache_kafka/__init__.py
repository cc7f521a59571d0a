"""Apache Kafka from its jars: one node without Docker, as production has it, on loopback."""
