"""PostgreSQL and a Kafka-compatible broker from wheels: the services of a house without configuration."""
