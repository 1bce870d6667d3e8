"""The form of a record that is sent to Kafka; imports nothing, so that the rules that make records stay pure."""

OutgoingRecord = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]
"""Key, value and headers of one record to send. A plain tuple: agents make one for every record that they publish."""
