"""The learned modules: plain `nn.Module`s without state of a video. `network` assembles them (paper Fig. 1)."""
