# Turns a script with @FILE keys into what `ip -batch` takes. The keys go through the pipe and
# never onto a command line, where other users could read them:
#
#   awk -f plain-ip.awk first-server.xfrm | ip -batch -
#
# Without a NIC that offloads ESP, leave the offload out: awk -v offload=no -f …

/\\$/ { sub(/\\$/, ""); line = line $0; next }
{
	line = line $0
	sub(/^ip /, "", line)
	if (match(line, /@[^ ]+/)) {
		file = substr(line, RSTART + 1, RLENGTH - 1)
		if ((getline key < file) <= 0) {
			print "cannot read " file > "/dev/stderr"
			exit 1
		}
		close(file)
		line = substr(line, 1, RSTART - 1) key substr(line, RSTART + RLENGTH)
	}
	if (offload == "no") sub(/offload dev [^ ]+ dir (in|out)/, "", line)
	print line
	line = ""
}
