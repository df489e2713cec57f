package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"espalier/probe"
)

// nics writes what is known of cards and drivers, as `espalier doctor` has it.
func nics() error {
	var b strings.Builder
	b.WriteString(`# Cards and drivers

What ` + "`espalier doctor`" + ` knows of cards and of Linux's drivers. None of it proves anything: the same PCI
id is on cards with and without cryptography. The driver decides, by its feature ` + "`esp-hw-offload`" + `; and what
becomes of an SA is seen when it is read back (` + "`espalier doctor --trial`" + `). The tables are written from those that the
doctor goes by.

| card | PCI id | offloads ESP | note | where that stands |
| --- | --- | --- | --- | --- |
`)
	for _, p := range probe.Products {
		row(&b, p.Name, p.ID(), string(p.ESP), p.Note, p.Source)
	}
	b.WriteString(`
A BlueField shows its host one more function in the slot of its NIC, whose id tells whether the
card's cryptography is enabled:

| card | enabled | disabled |
| --- | --- | --- |
`)
	for _, p := range probe.Products {
		of := slices.DeleteFunc(slices.Clone(probe.CryptoSKUs), func(s probe.CryptoSKU) bool { return s.Product != p.Device })
		ids := map[bool]string{}
		for _, s := range of {
			ids[s.Enabled] = fmt.Sprintf("%04x:%04x", p.Vendor, s.Device)
		}
		if len(of) > 0 {
			row(&b, p.Name, ids[true], ids[false])
		}
	}
	b.WriteString(`
Drivers of Linux. Where an option is named, the kernel must be built with it.

| driver | offloads ESP | option | note | where that stands |
| --- | --- | --- | --- | --- |
`)
	for _, d := range probe.Drivers {
		row(&b, d.Name, string(d.ESP), d.Option, d.Note, d.Source)
	}
	return os.WriteFile("docs/nics.md", []byte(b.String()), 0o644)
}

func row(b *strings.Builder, cells ...string) {
	for _, c := range cells {
		b.WriteString("| " + cell(c) + " ")
	}
	b.WriteString("|\n")
}
