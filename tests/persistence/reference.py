"""CRC32C written from its definition, to check the library and the stored bytes against."""


def crc32c(data: bytes) -> int:
    """Compute CRC32C bit by bit, as RFC 3720 defines it."""
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0x82F63B78 if checksum & 1 else 0)
    return checksum ^ 0xFFFFFFFF
