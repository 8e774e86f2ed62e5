"""Which inversion finds a watermark again."""
