"""The models bucket: what is in it, how files get in and out, and which nodes have them already."""
