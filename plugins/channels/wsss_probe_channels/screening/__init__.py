"""How well a channel, cut by Otsu, outlines what the masks show: channel-F1, coarse and fine."""
