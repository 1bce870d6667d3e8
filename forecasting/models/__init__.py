"""Models behind one interface (`interface`), by name (`catalogue`)."""
