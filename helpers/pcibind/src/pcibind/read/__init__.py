"""The machine as it is: sysfs, /proc, the files of pcibind, and accesses that may hang."""
