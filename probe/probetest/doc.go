// Package probetest makes hosts for tests of probes, out of parts: a distribution, a NIC, a trap.
//
//	sys := probetest.Load(t, "distro/ubuntu-24.04", "nic/connectx-6-dx", "trap/vlan")
//
// A part is a YAML file below hosts, or YAML text itself (told by its colon). Later parts add to
// earlier ones, and win where both say something. What may stand in a part:
//
//	files:                     # path without leading slash: text; null takes one out again
//	  etc/os-release: |
//	    ID=ubuntu
//	  proc/config.gz: !gzip |  # compressed by the loader
//	    CONFIG_XFRM_OFFLOAD=y
//	  sys/bus/pci/devices/0000:3b:00.2/physfn: !link ../0000:3b:00.0   # a symbolic link
//	  proc/kcore: !denied ""   # with everything below it
//	log: [lines, of, the, kernel's, log]   # added to those of earlier parts, unless log-lost: true
//	links:                     # by name; fields as in probe.Link, and besides
//	  p4p1: {index: 2, mtu: 1500, up: true, on: other, port-of: bond0, addresses: [192.0.2.1/24],
//	         driver: {name: mlx5_core, bus: "0000:3b:00.0"}, features: {esp-hw-offload: "on [fixed]"},
//	         counters: {ipsec_rx_pkts: 0}, speed: 25000, queues: {combined: 8, max-combined: 8}}
//	devlink: [{bus: pci, device: "0000:3b:00.0", eswitch: legacy, ports: [{index: 1, flavour: pcivf, ipsec-crypto: "no"}]}]
//	chains: [{family: inet, table: filter, name: input, hook: input, type: filter, rules: [{match: [{what: l4proto, in: ["50"]}], verdict: drop}]}]
//	denied: [chains, log]      # what answers fs.ErrPermission: a method of probe.Network, or the log
package probetest
