"""Real machines as test data: dumps of udev's database, and the sysfs trees that are made of them."""
