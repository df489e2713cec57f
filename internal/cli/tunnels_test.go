package cli

import (
	"context"
	"fmt"
	"testing"

	"espalier/deploy"
)

// What each host came to is told of a change that was interrupted, also by the one line of Main.
func TestInterruptedChange(t *testing.T) {
	report := &deploy.Report{Result: deploy.RolledBack, Hosts: []deploy.HostReport{
		{Name: "db1", Stage: "undone"},
		{Name: "root@db2", Stage: "open", Silent: true, Problem: "root@db2: no answer in time; it undoes the change by itself, within 51s"},
		{Name: "root@db3"},
	}}
	got := interrupted(interruptedChange(report, fmt.Errorf("rolled back: %w", context.Canceled))).Error()
	want := `interrupted: rolled back
  db1: undone
  root@db2: no answer in time; it undoes the change by itself, within 51s
  root@db3: nothing was begun`
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
