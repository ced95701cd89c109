"""Whether maps name what the network uses, judged by the network's own answers: no masks are needed."""
