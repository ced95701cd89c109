"""Whether maps depend on what the network has learned: parameter randomisation and random logit."""
