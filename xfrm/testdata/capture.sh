#!/bin/sh
# Records what iproute2 sends for the commands of commands.txt: one line per command,
#   NAME MESSAGE-TYPE PAYLOAD-IN-HEX
# The payload is what follows the netlink header. Needs root, ip and strace; works in its own network namespace, where
# enp4s0 has ifindex 2 and p4p1 ifindex 3. Run as: ./capture.sh > iproute2.hex
set -eu
cd "$(dirname "$0")"
if [ "${1:-}" != inside ]; then
	exec unshare -n "$PWD/$(basename "$0")" inside
fi
ip tuntap add dev enp4s0 mode tun
ip tuntap add dev p4p1 mode tun
while IFS='|' read -r name command; do
	case "$name" in '' | '#'*) continue ;; esac
	printf '%s ' "$name"
	eval "strace -qq -e trace=sendmsg,sendto -xx -s 65536 $command" 2>&1 >/dev/null |
		sed -n 's/.*nlmsg_type=XFRM_MSG_\([A-Z]*\),[^}]*}\(.*\)/\1 \2/p' | head -1 |
		sed 's/^\([A-Z]*\)[^"]*"\([^"]*\)".*/\1 \2/; t x; s/^\([A-Z]*\)[^"]*$/\1 /; :x; s/\\x//g'
done <commands.txt
