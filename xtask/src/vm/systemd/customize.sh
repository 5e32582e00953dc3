#!/bin/sh
# What the guest's root has beside the packages; the root is $1. Part of the image's key.
set -e
root=$1

echo guard-lab >"$root/etc/hostname"
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
: >"$root/etc/machine-id"
: >"$root/etc/fstab"
# The index of man pages is of no use here, and takes an emulated processor half a minute.
rm -f "$root/var/lib/man-db/auto-update"
# The first serial line is the console; a login there would only wait for somebody.
ln -s /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"

# A user who is logged in from boot on, at the fourth serial line (there need be no screen), and whose profile starts an agent.
chroot "$root" useradd --create-home --shell /bin/bash --uid 1000 worker
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS3.service.d"
cat >"$root/etc/systemd/system/serial-getty@ttyS3.service.d/autologin.conf" <<'UNIT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin worker --noclear --keep-baud 115200 ttyS3 vt102
UNIT
mkdir -p "$root/etc/systemd/system/getty.target.wants"
ln -s /lib/systemd/system/serial-getty@.service "$root/etc/systemd/system/getty.target.wants/serial-getty@ttyS3.service"

# The tests; they are written into the image before each run.
mkdir -p "$root/lab"
cat >"$root/etc/systemd/system/lab.service" <<'UNIT'
[Unit]
Description=The tests
After=multi-user.target

[Service]
Type=exec
ExecStart=/bin/bash /lab/run.sh
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../lab.service "$root/etc/systemd/system/multi-user.target.wants/lab.service"
