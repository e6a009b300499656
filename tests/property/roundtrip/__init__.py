"""Random schemas and hostile values: written by a source, extracted by the product, read back by
other people's readers, compared by value with what the source itself prints."""
