"""The little that generated files import: base class, state layout, packing, random bits, buckets."""
