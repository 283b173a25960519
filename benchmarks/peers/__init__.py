"""doortab beside Quix Streams and Kafka Streams, on the same work."""
