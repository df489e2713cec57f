package vm

import (
	"testing"

	"espalier/test/conformance"
	"espalier/test/lab"
	"espalier/test/vmlab/guest"
)

func TestMain(m *testing.M) { guest.Main(m) }

func TestConformance(t *testing.T) {
	conformance.Run(t, conformance.Kernel(t, lab.New(t, ""), true))
}
