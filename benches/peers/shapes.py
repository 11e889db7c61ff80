"""The dense sizes of the family, which every engine is measured on."""

VOCAB = 32768
HEAD_DIM = 128
MAX_TOKENS = 16384

# hidden, intermediate, layers, attention heads, key/value heads
SHAPES = {
    "20m": (256, 512, 8, 2, 1),
    "60m": (512, 1024, 16, 4, 2),
    "160m": (768, 1536, 24, 6, 3),
    "320m": (1024, 2048, 32, 8, 4),
}
