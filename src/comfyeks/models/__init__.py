"""The models bucket: its content, how files get in and out, and which nodes have them."""
