"""AWS on loopback: two emulators, what corrects them, and their traffic."""
