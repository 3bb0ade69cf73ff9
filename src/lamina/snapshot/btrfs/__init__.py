"""The driver btrfs: a subvolume for each layer of a stack, a snapshot for each container, and no program."""
