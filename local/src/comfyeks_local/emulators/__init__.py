"""AWS on loopback: two emulators, the bridges that patch them, and the traffic to them."""
