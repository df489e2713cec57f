package cli

import (
	"os"
	"testing"

	"espalier/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }
