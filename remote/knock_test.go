package remote

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"
)

// As a timer asks, with nothing of the user's: neither agent nor terminal.
func TestKnockAlone(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "/nowhere")
	opt := fakeSSH(t, "sh", `test -z "$SSH_AUTH_SOCK" || exit 9
		case $* in *BatchMode=yes*IdentityAgent=none*) echo "Permission denied (publickey)." >&2; exit 255;; *) exit 0;; esac`)
	opt.Terminal = &sync.Mutex{}
	if err := Knock(within(t), "db2", opt); err == nil {
		t.Error("the agent was not asked for")
	}
	opt.Alone = true
	mustFail(t, Knock(within(t), "db2", opt), Denied, "Permission denied")
}

func TestKnock(t *testing.T) {
	if err := Knock(within(t), "db2", fakeSSH(t, "sh", `case $* in *ControlPath=none*" true") ;; *) exit 9;; esac`)); err != nil {
		t.Error(err)
	}
	const locked = `case $* in *BatchMode=yes*) echo "db2: Permission denied (password)." >&2; exit 255;; esac`
	opt := fakeSSH(t, "sh", locked)
	mustFail(t, Knock(within(t), "db2", opt), Denied, "Permission denied (password)")
	opt.Terminal = &sync.Mutex{}
	if err := Knock(within(t), "db2", opt); err != nil {
		t.Error(err)
	}
	mustFail(t, Knock(within(t), "db2", fakeSSH(t, "sh", "echo This account is closed. >&2; exit 1")), Unexpected, "This account is closed.")
	mustFail(t, Knock(within(t), "db2", fakeSSH(t, "sh", "echo ssh: connect to host db2: No route to host >&2; exit 255")), Unreachable, "No route")
	ctx, cancel := context.WithTimeout(within(t), 50*time.Millisecond)
	defer cancel()
	if err := Knock(ctx, "db2", fakeSSH(t, "sh", "exec sleep 30")); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Error(err)
	}
}
