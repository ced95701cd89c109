"""Channel evidence for wsss-probe: channel-F1 against masks, with controls."""
