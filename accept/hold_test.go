package accept

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"espalier/remote"
)

// TestHold: what was added is deleted, whenever the request ends, and only then.
func TestHold(t *testing.T) {
	const added = `{"ok":true,"sad":"unix:/run/x.sock","offload":{"granted":true,"verdict":"offloaded to p4p1"}}` + "\n"
	for name, c := range map[string]struct {
		endWhileAdding bool
		answer         remote.CommandAnswer // of the add
		want           []string             // the commands that were run, "cut" for one that was interrupted
		err            string
	}{
		"ends later":               {false, remote.CommandAnswer{Stdout: []byte(added)}, []string{"add", "delete"}, ""},
		"ends while it is added":   {true, remote.CommandAnswer{Stdout: []byte(added)}, []string{"add", "delete"}, ""},
		"is refused":               {false, remote.CommandAnswer{Code: 2, Stdout: []byte(`{"ok":false,"error":"File exists"}` + "\n")}, []string{"add"}, "File exists"},
		"ends without a reason":    {false, remote.CommandAnswer{Code: 1, Stderr: "no socket"}, []string{"add"}, "no socket"},
		"says what nobody expects": {false, remote.CommandAnswer{Stdout: []byte("hello")}, []string{"add"}, "cannot be read"},
	} {
		ctx, end := context.WithCancel(t.Context())
		var ran []string
		run := func(ctx context.Context, _ string, q remote.CommandQuestion) remote.CommandAnswer {
			script := strings.TrimSpace(string(q.Stdin))
			if script == "add" && c.endWhileAdding {
				end()
			}
			if ctx.Err() != nil {
				script = "cut"
			}
			ran = append(ran, script)
			if script == "delete" {
				if !slices.Contains(q.Arguments, "unix:/run/x.sock") {
					t.Errorf("%s: deleted elsewhere: %q", name, q.Arguments)
				}
				return remote.CommandAnswer{Stdout: []byte(`{"ok":true,"sad":"unix:/run/x.sock"}` + "\n")}
			}
			return c.answer
		}
		conn := remote.Local(".", remote.Operations{"accept-hold": hold(run)})
		h := &Host{Conn: conn, label: "A"}
		l, err := h.hold(ctx, "SA", "add", "delete")
		if !c.endWhileAdding && c.err == "" && (err != nil || l.batch.SAD != "unix:/run/x.sock" || fmt.Sprint(l.batch.Offload) != "[offloaded to p4p1]" || len(ran) != 1) {
			t.Errorf("%s: %+v, %v, %q", name, l, err, ran)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			if err := l.release(); err != nil || l.problem != "" {
				t.Errorf("%s: %v %s", name, err, l.problem)
			}
		} else if c.endWhileAdding && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		if err := conn.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Equal(ran, c.want) {
			t.Errorf("%s: %q, want %q", name, ran, c.want)
		}
		end()
	}
}

// TestHoldWhileCut: the connection is cut while something is added.
func TestHoldWhileCut(t *testing.T) {
	var ran []string
	began, goOn := make(chan struct{}), make(chan struct{})
	run := func(ctx context.Context, _ string, q remote.CommandQuestion) remote.CommandAnswer {
		if string(q.Stdin) == "add" {
			close(began)
			<-goOn
		}
		if ctx.Err() != nil {
			return remote.CommandAnswer{Code: 130}
		}
		ran = append(ran, string(q.Stdin))
		return remote.CommandAnswer{Stdout: []byte(`{"ok":true,"sad":"kernel"}` + "\n")}
	}
	holding, cut := hold(run), make(chan struct{})
	conn := remote.Local(".", remote.Operations{"accept-hold": func(ctx context.Context, q []byte, say remote.Progress) ([]byte, error) {
		context.AfterFunc(ctx, func() { close(cut) })
		return holding(ctx, q, say)
	}})
	h := &Host{Conn: conn, label: "A"}
	failed := make(chan error, 1)
	go func() {
		_, err := h.hold(t.Context(), "SA", "add", "delete")
		failed <- err
	}()
	<-began
	closed := make(chan error, 1)
	go func() { closed <- conn.Close() }()
	<-cut
	close(goOn)
	if err := <-failed; err == nil {
		t.Error("what is held over a connection that is cut seems to be there")
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if !slices.Equal(ran, []string{"add", "delete"}) {
		t.Errorf("%q", ran)
	}
}
