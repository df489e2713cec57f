#!/bin/sh
# Makes two new keys in this directory, one for each direction: 36 random bytes, that is
# AES-256 and the 4 bytes of salt of RFC 4106. Only their owner can read them.
set -eu
umask 077
for key in first-to-second.key second-to-first.key; do
	rm -f "$key" # an old file would keep its mode
	printf '0x%s\n' "$(head -c 36 /dev/urandom | od -An -v -tx1 | tr -d ' \n')" >"$key"
done
