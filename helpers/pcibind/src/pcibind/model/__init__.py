"""What things are: PCI, what is asked for, what is on record, what a command answers.

Pure, but for `record`, which reads and writes its file.
"""
