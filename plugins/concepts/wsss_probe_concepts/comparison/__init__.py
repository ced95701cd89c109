"""Networks beside one another: what each encodes, and how alike their representations are."""
