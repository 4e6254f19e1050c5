"""A virtual GPU host: real kernel, IOMMU groups, GRUB, initramfs, systemd, SSH, Podman; no GPU."""
