#!/bin/sh
# clean_root.sh SOURCES PACKAGE...: within a mount namespace of its own, installs the packages in a copy of this root (an
# overlay in memory), uses them there, removes them, and lists behind "changed:" every path that was written.
set -eu
sources=$1
shift
memory=$(mktemp -d)
mount -t tmpfs tenon-test "$memory"
trap 'umount -R -l "$memory"; rmdir "$memory"' EXIT
mkdir "$memory/upper" "$memory/work" "$memory/root"
mount -t overlay tenon-test -o "lowerdir=/,upperdir=$memory/upper,workdir=$memory/work" "$memory/root"
root=$memory/root
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tenon-test "$root/dev/shm"
mkdir -p "$root/tmp/tenon-test"
cp "$@" "$sources"/client_only*.cpp "$root/tmp/tenon-test"

chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp DEBIAN_FRONTEND=noninteractive sh -euc '
  cd /tmp/tenon-test
  dpkg -i ./*.deb
  for package in tenon libtenon-dev; do
    dpkg -L "$package" | while read -r path; do
      [ ! -f "$path" ] || echo "installed: $path"
    done
  done
  tenon --version
  tenon ls
  g++ -std=c++17 client_only*.cpp $(pkg-config --cflags --libs tenon-client) -o client
  ./client && echo "the client found nothing, as it should"
  dpkg -r libtenon-dev tenon
  dpkg -P libtenon-dev tenon
'
echo changed:
cd "$memory/upper"
find . -mindepth 1 ! -type c | sed 's/^\.//'
