// Package vmlab runs tests inside of a virtual machine, in a Linux kernel of Debian's that has
// ESP and its offload interface, which the kernel of a build machine often has not.
//
// A suite is a package of tests whose TestMain is guest.Main. Run builds it, boots a kernel
// with it as the first process, and reports each of its tests as a test of its own. Kernel,
// headers and the tools beside the tests come from Debian's packages, which are unpacked into
// the user's cache and never installed; so does netdevsim, the kernel's own simulated NIC, as
// source. The first run downloads some 300 MB and builds the drivers: a minute and a half on two
// cores, of which netdevsim is 25 seconds; later ones begin at once.
//
// Tests save files, captures above all, which the host has after the run and go test -artifacts
// keeps. tshark judges what the lab's NIC has put on its cable.
//
// QEMU emulates the processor: KVM is not needed; root only where a suite's Network needs it.
package vmlab
