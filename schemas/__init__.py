"""The words of doortab: events, money, prices, caps, topics. Pure: no I/O and no clock."""
