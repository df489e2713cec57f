// Package deploy sets tunnels up, rotates them and takes them down between hosts in network
// namespaces, which real OpenSSH servers lead to, with a userspace device each.
package deploy
