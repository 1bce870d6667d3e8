"""Brokers, SASL and TLS of the settings as options of Spark's Kafka connector, which uses Kafka's Java client."""

from config.sections import KafkaSettings


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def client_properties(kafka: KafkaSettings) -> dict[str, str]:
    """The settings as properties of Kafka's Java client."""
    properties = {"bootstrap.servers": kafka.brokers, "security.protocol": kafka.security_protocol}
    if kafka.ssl_cafile is not None:
        properties |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(kafka.ssl_cafile)}
    if kafka.security_protocol.startswith("SASL"):
        module = "plain.PlainLoginModule" if kafka.sasl_mechanism == "PLAIN" else "scram.ScramLoginModule"
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else ""
        properties |= {
            "sasl.mechanism": kafka.sasl_mechanism,
            "sasl.jaas.config": (
                f"org.apache.kafka.common.security.{module} required "
                f'username="{_quoted(kafka.sasl_username or "")}" password="{_quoted(password)}";'
            ),
        }
    return properties


def kafka_options(kafka: KafkaSettings) -> dict[str, str]:
    """The settings as options of Spark's Kafka source."""
    # Every micro-batch reads each partition to its end. There the last fetch waits for the client's default of 500 ms,
    # and the next batch's fetch waits behind it: this would cost half a second per partition and batch.
    properties = {**client_properties(kafka), "fetch.max.wait.ms": "20"}
    return {f"kafka.{name}": value for name, value in properties.items()}
