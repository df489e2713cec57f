package guest

import (
	"os"
	"testing"
)

func TestKernel(t *testing.T) {
	v, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", v)
}
