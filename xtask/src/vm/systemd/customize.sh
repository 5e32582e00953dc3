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
# The test that wants it starts it.
rm -f "$root/etc/systemd/system/multi-user.target.wants/containerd.service"

# A user who is logged in from boot on, at the fourth serial line (there need be no screen), and whose profile starts an agent.
chroot "$root" useradd --create-home --shell /bin/bash --uid 1000 worker
# (A unit of its own: systemd's waits for udev to find the line, and there is no udev.)
cat >"$root/etc/systemd/system/lab-login.service" <<'UNIT'
[Unit]
Description=A login
After=systemd-user-sessions.service

[Service]
Type=idle
ExecStart=-/sbin/agetty --autologin worker --noclear --local-line --keep-baud 115200 ttyS3 vt102
Restart=always
StandardInput=tty
StandardOutput=tty
TTYPath=/dev/ttyS3
TTYReset=yes
TTYVHangup=yes
KillMode=process
IgnoreSIGPIPE=no
SendSIGHUP=yes
UNIT

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
ln -s ../lab-login.service "$root/etc/systemd/system/multi-user.target.wants/lab-login.service"
