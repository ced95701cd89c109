"""Maps by perturbation: channels weighted by what the network says when they are shown or taken away."""
