package vmlab

import (
	"testing"
	"time"
)

// TestConformance runs the conformance suite of SAD and SPD against the VM's kernel. Lifetimes
// take their time.
func TestConformance(t *testing.T) {
	t.Parallel()
	s := Suite{Package: "espalier/test/conformance/vm", Timeout: 4 * time.Minute}
	s.Run(t)
}
